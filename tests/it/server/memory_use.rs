//! What counts as memory of the connections, and how much one of them takes at most.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ropewalk::memory::{self, Connector};
use ropewalk::{
    ConnectionService, Error, LengthPrefixed, Lines, Reply, Result, Server, Session, framed,
    reply_fn, service_fn, session,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use crate::harness::{Running, on_tcp, settle, shouter, until};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const SECOND: Duration = Duration::from_secs(1);

/// A server with a budget that nobody reaches, on a transport that takes next to nothing of its
/// answers by itself.
async fn serve<S: ConnectionService>(leaf: S) -> (Running, Connector) {
    let (endpoint, connector) = memory::endpoint_with_capacity(KIB);
    let server = Server::new().listen(endpoint).memory_budget(64 * MIB).serve(leaf);
    (Running::start(server).await, connector)
}

#[tokio::test(start_paused = true)]
async fn answers_that_a_session_has_queued_count_while_it_waits_elsewhere() {
    let leaf = session(Lines::lf(), async |mut s: Session<Lines>| {
        for _ in 0..9 {
            s.feed_raw(vec![b'x'; 100 * KIB])?;
        }
        sleep(SECOND).await;
        Ok(())
    });
    let (server, connector) = serve(leaf).await;
    let client = connector.connect().await.unwrap();
    settle().await;
    assert!(server.handle().memory().in_use() >= 900 * KIB);
    drop(client);
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn memory_in_use_rises_and_falls_with_the_connections() {
    let leaf = session(Lines::lf().unlimited(), async |mut s: Session<Lines>| {
        while let Some(line) = s.next().await? {
            match &line[..] {
                b"panic" => panic!("as told"),
                b"error" => return Err(Error::other("as told")),
                b"abort" => {
                    s.abort();
                    return Ok(());
                }
                _ => s.feed_raw(vec![b'x'; 100 * KIB])?,
            }
        }
        Ok(())
    });
    let (server, connector) = serve(leaf).await;
    for end in ["panic\n", "error\n", "abort\n", ""] {
        let mut client = connector.connect().await.unwrap();
        client.write_all(b"answer\n").await.unwrap();
        settle().await;
        assert!(server.handle().memory().in_use() >= 98 * KIB);
        let mut taken = vec![0; 90 * KIB];
        client.read_exact(&mut taken).await.unwrap();
        client.write_all(end.as_bytes()).await.unwrap();
        if end.is_empty() {
            client.shutdown().await.unwrap();
        }
        drop(client.read_to_end(&mut taken).await);
        until("it is gone", || server.counts().active() == 0).await;
        assert_eq!(server.handle().memory().in_use(), 0, "after {end:?}");
    }
    // Half a line, which is not counted while it is next to nothing.
    for (half, counts) in [(100, false), (10 * KIB, true), (200 * KIB, true)] {
        let mut client = connector.connect().await.unwrap();
        client.write_all(&vec![b'x'; half]).await.unwrap();
        settle().await;
        assert_eq!(server.handle().memory().in_use() >= half, counts);
        drop(client);
        until("it is gone", || server.counts().active() == 0).await;
        assert_eq!(server.handle().memory().in_use(), 0);
    }
    server.end().await;
}

#[tokio::test]
async fn the_default_budget_is_at_most_a_quarter_of_the_memory() {
    let server = on_tcp(Server::new(), shouter()).await;
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib =
        info.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    let machine = kib.map_or(4 * 1024 * MIB, |kib| kib.trim().parse::<usize>().unwrap() * KIB);
    let budget = server.handle().memory().budget().unwrap();
    assert!(budget > 0 && budget <= machine / 4, "{budget} of {machine}");
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_large_answer_that_is_not_copied_counts_while_it_waits() {
    let big = Bytes::from(vec![b'x'; 300 * KIB]);
    let leaf = framed(Lines::lf().unlimited(), reply_fn(move |_: Bytes| big.clone()));
    let (server, connector) = serve(leaf).await;
    let mut client = connector.connect().await.unwrap();
    client.write_all(b"answer\n").await.unwrap();
    settle().await;
    let in_use = server.handle().memory().in_use();
    assert!((299 * KIB..310 * KIB).contains(&in_use), "{in_use}");
    client.read_exact(&mut vec![0; 300 * KIB + 1]).await.unwrap();
    settle().await;
    assert_eq!(server.handle().memory().in_use(), 0);
    server.end().await;
}

/// The most that is in use while a peer sends the first `sent` bytes of a frame of `len` bytes.
async fn while_reading(len: usize, sent: usize) -> usize {
    let frame = [&u32::try_from(len).unwrap().to_be_bytes()[..], &vec![b'x'; len]].concat();
    let leaf = framed(
        LengthPrefixed::u32().unlimited(),
        service_fn(async |_: Bytes| Ok(Reply::<Bytes>::none())),
    );
    worst(leaf, &frame[..sent], 64 * KIB).await
}

#[tokio::test(start_paused = true)]
async fn a_frame_is_read_into_no_more_memory_than_its_length_and_no_more_than_twice_what_has_arrived()
 {
    for len in [100 * KIB, 500 * KIB, MIB, 3 * MIB] {
        let most = while_reading(len, len + 3).await;
        assert!(most <= len + 5 * KIB, "{most} of {len}");
    }
    // The peer has only announced the rest.
    for sent in [70 * KIB, 200 * KIB, 600 * KIB] {
        let most = while_reading(16 * MIB, sent).await;
        assert!(most <= 2 * sent + KIB, "{most} for {sent}");
    }
}

/// What `docs/src/deployment.md` says, for frames and answers of this size: read, and unwritten
/// under `framed`.
fn most(frame: usize, answer: usize) -> usize {
    2 * (64 * KIB + frame) + 2 * (64 * KIB + answer)
}

/// The most that is in use while a peer sends all of this, in pieces of some size, and reads
/// nothing.
async fn worst<S: ConnectionService>(leaf: S, bytes: &[u8], piece: usize) -> usize {
    let (endpoint, connector) = memory::endpoint_with_capacity(128 * KIB);
    let server =
        Running::start(Server::new().listen(endpoint).unlimited_memory().serve(leaf)).await;
    let mut client = connector.connect().await.unwrap();
    let mut worst = 0;
    for piece in bytes.chunks(piece) {
        drop(timeout(SECOND / 100, client.write_all(piece)).await);
        settle().await;
        worst = worst.max(server.handle().memory().in_use());
    }
    drop(client);
    // A call that never ends is under way.
    server.cut_off().await;
    worst
}

#[tokio::test(start_paused = true)]
async fn one_connection_takes_no_more_than_the_documentation_says() {
    let frame =
        |len: usize| [&u32::try_from(len).unwrap().to_be_bytes()[..], &vec![b'x'; len]].concat();
    let whole = 64 * KIB;
    let echo = || framed(LengthPrefixed::u32(), reply_fn(|frame: Bytes| frame));
    let stuck = || {
        let never = service_fn(async |_: Bytes| std::future::pending::<Result<Bytes>>().await);
        framed(LengthPrefixed::u32(), never)
    };
    let mut most_seen = 0;
    for len in [1, 1000, 20_000, 33_000, 60_000, whole] {
        let many = frame(len).repeat((1200 * KIB).div_ceil(len.max(1000)));
        for piece in [3000, 64 * KIB, 100_000] {
            for worst in [worst(echo(), &many, piece).await, worst(stuck(), &many, piece).await] {
                assert!(
                    worst <= most(whole, whole),
                    "{worst} with frames of {len} in pieces of {piece}"
                );
                most_seen = most_seen.max(worst);
            }
        }
    }
    // And it is not far from that.
    assert!(most_seen > most(whole, whole) / 4, "{most_seen}");
    let pushes = session(Lines::lf(), async |mut s: Session<Lines>| {
        while s.feed_raw(vec![b'x'; 50 * KIB]).is_ok() {}
        s.flush().await
    });
    let worst = worst(pushes, b"x", 1).await;
    assert!(worst <= 2 * (MIB + 50 * KIB), "{worst}");
}

/// The buffers of large frames are used again, but not while their frames exist.
#[tokio::test(start_paused = true)]
async fn a_large_frame_that_is_kept_is_not_overwritten_by_later_ones() {
    let kept = Arc::<Mutex<Vec<Bytes>>>::default();
    let keep = Arc::clone(&kept);
    let service = reply_fn(move |frame: Bytes| {
        // Every other one is kept.
        let n = frame[0];
        if n.is_multiple_of(2) {
            keep.lock().unwrap().push(frame);
        }
        Bytes::copy_from_slice(&[n])
    });
    let (endpoint, connector) = memory::endpoint_with_capacity(MIB);
    let server =
        Server::new().listen(endpoint).serve(framed(LengthPrefixed::u32().unlimited(), service));
    let server = Running::start(server).await;
    let mut client = connector.connect().await.unwrap();
    for n in 0..20_u8 {
        let len = 200 * KIB + usize::from(n) * KIB;
        client.write_all(&u32::try_from(len).unwrap().to_be_bytes()).await.unwrap();
        client.write_all(&vec![n; len]).await.unwrap();
        let mut answer = [0; 5];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, [0, 0, 0, 1, n]);
    }
    for (frame, n) in kept.lock().unwrap().iter().zip((0..20).step_by(2)) {
        assert!(frame.iter().all(|byte| *byte == n), "frame {n} was overwritten");
    }
    assert_eq!(kept.lock().unwrap().len(), 10);
    assert_eq!(server.handle().memory().in_use(), 0, "no connection owns a thread's buffers");
    drop(client);
    server.end().await;
}
