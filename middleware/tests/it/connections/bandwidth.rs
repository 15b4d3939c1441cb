//! Bytes that pass at a rate.

use std::future::ready;
use std::time::Duration;

use futures::FutureExt as _;
use ropewalk_middleware::{Addr, BandwidthLayer, Connection, Peer, Stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, Service, service_fn};

use crate::common::{connection_on, settle};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// The connection as the service behind the layer sees it.
async fn behind(layer: &BandwidthLayer, connection: Connection) -> Connection {
    layer
        .layer(service_fn(|connection: Connection| ready(Ok::<_, ()>(connection))))
        .call(connection)
        .await
        .unwrap()
}

/// A connection behind the layer, and its peer.
async fn limited(layer: &BandwidthLayer) -> (Connection, tokio::io::DuplexStream) {
    let (ours, theirs) = connection_on(0, 16 * 1024);
    (behind(layer, ours).await, theirs)
}

/// Writes as fast as it is let, without an end.
async fn pour(mut to: impl AsyncWrite + Unpin) {
    while to.write_all(&[7; 4096]).await.is_ok() {}
}

/// How many bytes can be read in a time.
async fn bytes_in(time: Duration, mut from: impl AsyncRead + Unpin) -> u64 {
    let (mut count, mut buf) = (0, [0; 4096]);
    let reading = async {
        while let Ok(read @ 1..) = from.read(&mut buf).await {
            count += read as u64;
        }
    };
    assert!(timeout(time, reading).await.is_err(), "it ended before its time");
    count
}

#[track_caller]
fn assert_close(bytes: u64, to: u64) {
    assert!(bytes.abs_diff(to) * 100 <= to, "{bytes} bytes is not within 1 % of {to}");
}

#[tokio::test(start_paused = true)]
async fn each_direction_has_its_rate_to_one_percent_over_ten_seconds() {
    for rate in [100, 1_000, 65_536, 1_000_000, 50_000_000] {
        let (reads, peer) = limited(&BandwidthLayer::new().read(rate)).await;
        let pouring = tokio::spawn(pour(peer));
        assert_close(bytes_in(10 * SECOND, reads).await, 10 * rate);
        pouring.abort();
        let (writes, peer) = limited(&BandwidthLayer::new().write(rate)).await;
        let pouring = tokio::spawn(pour(writes));
        assert_close(bytes_in(10 * SECOND, peer).await, 10 * rate);
        pouring.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_flow_evenly() {
    let (mut reads, peer) = limited(&BandwidthLayer::new().read(64_000)).await;
    let _pouring = tokio::spawn(pour(peer));
    let (start, mut before, mut buf) = (Instant::now(), Instant::now(), [0; 65_536]);
    while start.elapsed() < 5 * SECOND {
        let read = reads.read(&mut buf).await.unwrap();
        assert!(read <= 64_000 / 20, "{read} bytes at once");
        assert!(before.elapsed() <= 20 * MS, "nothing for {:?}", before.elapsed());
        before = Instant::now();
    }
}

#[tokio::test(start_paused = true)]
async fn time_in_which_nothing_passed_is_made_up_for_by_fifty_milliseconds_only() {
    let (reads, mut peer) = limited(&BandwidthLayer::new().read(100_000)).await;
    sleep(60 * SECOND).await;
    peer.write_all(&[7; 16_000]).await.unwrap();
    let _pouring = tokio::spawn(pour(peer));
    // 5000 at once and 10 000 in 100 ms, give or take a piece.
    let bytes = bytes_in(100 * MS, reads).await;
    assert!((14_488..=15_512).contains(&bytes), "{bytes} bytes");
}

#[tokio::test(start_paused = true)]
async fn no_byte_is_lost_or_moved() {
    let (ours, mut peer) = limited(&BandwidthLayer::new().read(10_000).write(7_000)).await;
    let sent: Vec<u8> = (0..30_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let (mut read, mut write) = tokio::io::split(ours);
    let echo = tokio::spawn(async move {
        tokio::io::copy(&mut read, &mut write).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let start = Instant::now();
    let (mut from, mut to) = tokio::io::split(&mut peer);
    let mut received = Vec::new();
    let (..) = tokio::join!(
        async {
            to.write_all(&sent).await.unwrap();
            to.shutdown().await.unwrap();
        },
        from.read_to_end(&mut received)
    );
    assert_eq!(received, sent);
    assert!(
        start.elapsed() > 4 * SECOND,
        "30 000 bytes at 7 000 a second took {:?}",
        start.elapsed()
    );
    echo.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn two_hundred_connections_share_one_rate_and_take_turns() {
    let layer = BandwidthLayer::new().read_of_all(2_000_000);
    let mut all = JoinSet::new();
    for _ in 0..200 {
        let (reads, peer) = limited(&layer.clone()).await;
        tokio::spawn(pour(peer));
        all.spawn(bytes_in(10 * SECOND, reads));
    }
    let each = all.join_all().await;
    assert_close(each.iter().sum(), 20_000_000);
    let (least, most) = (each.iter().min().unwrap(), each.iter().max().unwrap());
    assert!(most - least <= 20_000, "one read {least} bytes, another {most}");
}

#[tokio::test(start_paused = true)]
async fn the_written_bytes_of_all_have_a_rate_of_their_own() {
    let layer = BandwidthLayer::new().write_of_all(100_000).read_of_all(1_000);
    let mut all = JoinSet::new();
    for _ in 0..20 {
        let (writes, peer) = limited(&layer).await;
        tokio::spawn(pour(writes));
        all.spawn(bytes_in(10 * SECOND, peer));
    }
    assert_close(all.join_all().await.iter().sum(), 1_000_000);
}

#[tokio::test(start_paused = true)]
async fn idle_connections_take_nothing_of_the_shared_rate() {
    let layer = BandwidthLayer::new().read_of_all(100_000);
    let mut idle = Vec::new();
    for _ in 0..500 {
        let (reads, peer) = limited(&layer).await;
        idle.push((tokio::spawn(bytes_in(20 * SECOND, reads)), peer));
    }
    settle().await;
    let (reads, peer) = limited(&layer).await;
    let _pouring = tokio::spawn(pour(peer));
    assert_close(bytes_in(10 * SECOND, reads).await, 1_000_000);
}

#[tokio::test(start_paused = true)]
async fn connections_held_up_by_their_own_rate_leave_the_shared_rate_to_others() {
    let shared = BandwidthLayer::new().read_of_all(100_000);
    let slow = shared.clone().read(100);
    let mut slow_ones = JoinSet::new();
    for _ in 0..100 {
        let (reads, peer) = limited(&slow).await;
        tokio::spawn(pour(peer));
        slow_ones.spawn(bytes_in(10 * SECOND, reads));
    }
    let (reads, peer) = limited(&shared).await;
    let _pouring = tokio::spawn(pour(peer));
    assert_close(bytes_in(10 * SECOND, reads).await, 900_000);
    assert_close(slow_ones.join_all().await.iter().sum(), 100_000);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_gives_its_turn_back() {
    let layer = BandwidthLayer::new().write_of_all(1_000);
    let (mut first, _peer) = limited(&layer).await;
    first.write_all(&[7; 50]).await.unwrap();
    // The others wait for turns behind it, and end.
    let mut waiting = Vec::new();
    for _ in 0..100 {
        let (mut waits, peer) = limited(&layer).await;
        assert_eq!(waits.write(&[7; 50]).now_or_never().map(Result::unwrap), None);
        waiting.push((waits, peer));
    }
    drop(waiting);
    let start = Instant::now();
    let (mut last, _peer) = limited(&layer).await;
    last.write_all(&[7; 50]).await.unwrap();
    assert!(
        start.elapsed() <= 51 * MS,
        "it waited {:?} for connections that were gone",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_write_that_is_not_taken_takes_nothing_of_the_rate() {
    let layer = BandwidthLayer::new().write_of_all(100_000);
    let mut stuck = Vec::new();
    for _ in 0..50 {
        let (writes, peer) = limited(&layer).await;
        stuck.push((tokio::spawn(pour(writes)), peer));
    }
    sleep(60 * SECOND).await;
    let (writes, peer) = limited(&layer).await;
    let _pouring = tokio::spawn(pour(writes));
    assert_close(bytes_in(10 * SECOND, peer).await, 1_000_000);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_peer_is_seen_behind_a_rate() {
    let (mut ours, mut peer) = limited(&BandwidthLayer::new().read(10).read_of_all(10)).await;
    peer.write_all(b"bye").await.unwrap();
    drop(peer);
    let mut read = Vec::new();
    ours.read_to_end(&mut read).await.unwrap();
    assert_eq!(read, b"bye");
}

#[tokio::test(start_paused = true)]
async fn empty_writes_and_reads_into_nothing_do_not_wait() {
    let (mut ours, _peer) = limited(&BandwidthLayer::new().write(1)).await;
    let start = Instant::now();
    for _ in 0..10 {
        assert_eq!(ours.write(&[]).await.unwrap(), 0);
    }
    assert!(start.elapsed() < MS);
}

/// Over TCP, with the lower bound only: the machine may be slow.
#[tokio::test]
async fn a_socket_is_held_to_its_rate_and_a_layer_without_a_rate_leaves_it_alone() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (tcp, addr) = listener.accept().await.unwrap();
    let connection = behind(&BandwidthLayer::new(), Connection::new(tcp, Peer::new(addr))).await;
    assert!(matches!(connection.stream(), Stream::Tcp(_)));
    let local = connection.local();
    assert!(matches!(local, Addr::Tcp(_)));
    let mut connection = behind(&BandwidthLayer::new().write(100_000), connection).await;
    assert_eq!(connection.local(), local);
    let start = Instant::now();
    let writing = tokio::spawn(async move {
        connection.write_all(&[7; 30_000]).await.unwrap();
        connection
    });
    let mut buf = vec![0; 30_000];
    peer.read_exact(&mut buf).await.unwrap();
    assert!(
        start.elapsed() >= 240 * MS,
        "30 000 bytes at 100 000 a second passed in {:?}",
        start.elapsed()
    );
    writing.await.unwrap().abort();
    assert!(peer.read(&mut buf).await.is_err(), "an aborted connection ends in a reset");
}

#[test]
#[should_panic(expected = "lets nothing pass")]
fn a_rate_of_no_bytes_is_a_mistake() {
    let _ = BandwidthLayer::new().write_of_all(0);
}
