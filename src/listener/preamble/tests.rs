mod crowded;
mod descriptors;
mod endpoints;
mod room;

use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ropewalk_middleware::{CloseReason, Peer, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::{LAST, PreambleCounts, PreambleDrop, Preambles, Step, StepFuture, WithPreamble};
use crate::listener::Listener;
use crate::memory::{Connector, MemoryStream};
use crate::{Bytes, Endpoint, Handle, RawBytes, Server, framed, memory, reply_fn};

const DEADLINE: Duration = Duration::from_secs(10);

/// The limit on preambles under way.
const PENDING: usize = 256;

/// A preamble of any number of `.`, then `y` to pass; `p` panics, and any other byte fails and is
/// quoted.
struct Word;

impl Step for Word {
    fn name(&self) -> &'static str {
        "word"
    }

    fn within(&self) -> Duration {
        DEADLINE
    }

    fn run(&self, mut stream: Stream, peer: Peer) -> StepFuture {
        Box::pin(async move {
            loop {
                match stream.read_u8().await? {
                    b'y' => return Ok((stream, peer)),
                    b'.' => {}
                    b'p' => panic!("as told"),
                    b'n' => return Err(io::ErrorKind::InvalidData.into()),
                    byte => return Err(io::Error::other(format!("\n{}", char::from(byte)))),
                }
            }
        })
    }
}

async fn listener() -> (WithPreamble, Preambles, Connector) {
    let (endpoint, connector) = memory::endpoint();
    let counts = Preambles::new(PENDING);
    let listener =
        WithPreamble::new(endpoint.bind().await.unwrap(), vec![Box::new(Word)], counts.clone());
    (listener, counts, connector)
}

async fn accept(listener: &mut WithPreamble) -> Stream {
    poll_fn(|cx| listener.poll_accept(cx)).await.0
}

/// Polls for this time, in which no connection must be accepted.
async fn none_within(listener: &mut WithPreamble, time: Duration) {
    assert!(timeout(time, accept(listener)).await.is_err());
}

async fn begun(connector: &Connector, bytes: &[u8]) -> MemoryStream {
    let mut client = connector.connect().await.unwrap();
    client.write_all(bytes).await.unwrap();
    client
}

/// Begun, pending, passed, failed, timed out, dropped.
fn of(counts: &PreambleCounts) -> [u64; 6] {
    [
        counts.begun(),
        counts.pending(),
        counts.passed(),
        counts.failed(),
        counts.timed_out(),
        counts.dropped(),
    ]
}

/// An echo server with this preamble, its counters, and a connector to it.
async fn server(
    max: usize,
) -> (Handle, Preambles, Connector, tokio::task::JoinHandle<crate::Result>) {
    let (listener, counts, connector) = listener().await;
    let server = Server::new().listen(Endpoint::from_listener(listener)).max_connections(max);
    let server =
        server.serve(framed(RawBytes, reply_fn(|bytes: Bytes| bytes))).bind().await.unwrap();
    (server.handle(), counts, connector, tokio::spawn(server))
}

async fn echoed(client: &mut MemoryStream, text: &[u8]) {
    client.write_all(text).await.unwrap();
    let mut answer = vec![0; text.len()];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, text);
}

#[tokio::test(start_paused = true)]
async fn preambles_that_pass_are_accepted_and_all_others_are_counted() {
    let (mut listener, counts, connector) = listener().await;
    let _failed = begun(&connector, b"..n").await;
    let _panicked = begun(&connector, b"p").await;
    let _silent = begun(&connector, b"..").await;
    let gone = begun(&connector, b".").await;
    drop(gone);
    let mut client = begun(&connector, b"..yrest").await;
    let mut stream = accept(&mut listener).await;
    let mut rest = [0; 4];
    stream.read_exact(&mut rest).await.unwrap();
    assert_eq!(&rest, b"rest");
    stream.write_all(b"hello").await.unwrap();
    let mut hello = [0; 5];
    client.read_exact(&mut hello).await.unwrap();
    none_within(&mut listener, DEADLINE * 2).await;
    assert_eq!(of(&counts.counts()), [5, 0, 1, 3, 1, 0]);
    assert_eq!(listener.pending(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_is_a_total_one_and_the_connection_is_closed_then() {
    let (mut listener, counts, connector) = listener().await;
    let mut client = begun(&connector, b".").await;
    let began = Instant::now();
    let drip = async {
        while client.write_all(b".").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        began.elapsed()
    };
    let took = tokio::select! {
        took = drip => took,
        _ = accept(&mut listener) => panic!("it never said yes"),
    };
    // The first write after the end still succeeds.
    assert!(took >= DEADLINE && took <= DEADLINE + Duration::from_secs(2), "{took:?}");
    assert_eq!(of(&counts.counts()), [1, 0, 0, 0, 1, 0]);
}

#[tokio::test(start_paused = true)]
async fn three_hundred_silent_preambles_do_not_keep_out_an_honest_one() {
    let (mut listener, counts, connector) = listener().await;
    let began = Instant::now();
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(begun(&connector, b"").await);
    }
    none_within(&mut listener, Duration::from_secs(1)).await;
    assert_eq!(of(&counts.counts()), [300, 256, 0, 0, 0, 44]);
    assert_eq!(counts.counts().dropped_for(PreambleDrop::Silent), 44);
    // The oldest are closed, the newest are still open.
    assert_eq!(silent[0].read(&mut [0]).await.unwrap(), 0);
    assert_eq!(silent[43].read(&mut [0]).await.unwrap(), 0);
    for _ in 0..100 {
        let _client = begun(&connector, b"y").await;
        accept(&mut listener).await;
    }
    assert!(began.elapsed() < Duration::from_secs(2));
    let counts = counts.counts();
    assert_eq!((counts.passed(), counts.failed(), counts.timed_out()), (100, 0, 0));
    assert!(listener.pending() <= PENDING);
    silent[299].write_all(b"y").await.unwrap();
    accept(&mut listener).await;
}

#[tokio::test(start_paused = true)]
async fn a_passed_preamble_waits_for_room_and_is_not_dropped() {
    let (handle, counts, connector, _server) = server(1).await;
    let mut first = begun(&connector, b"y").await;
    echoed(&mut first, b"one").await;
    let mut waiting = begun(&connector, b"y").await;
    // Long past every deadline.
    assert!(timeout(DEADLINE * 3, waiting.read(&mut [0])).await.is_err());
    assert_eq!((handle.counts().accepted(), handle.counts().active()), (1, 1));
    drop(first);
    echoed(&mut waiting, b"two").await;
    assert_eq!(handle.counts().accepted(), 2);
    assert_eq!(of(&counts.counts()), [2, 0, 2, 0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_preambles_that_have_begun_and_not_for_silent_ones() {
    let (handle, counts, connector, server) = server(10).await;
    let mut half = begun(&connector, b"..").await;
    let mut silent = begun(&connector, b"").await;
    let mut idle = begun(&connector, b"y").await;
    echoed(&mut idle, b"x").await;
    let began = Instant::now();
    handle.drain(Duration::from_secs(30));
    assert_eq!(idle.read(&mut [0]).await.unwrap(), 0);
    // No socket listens any more, and the preamble that has begun continues.
    assert_eq!(connector.connect().await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    half.write_all(b"yhello").await.unwrap();
    let mut hello = [0; 5];
    half.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"hello");
    drop((half, idle));
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
    server.await.unwrap().unwrap();
    assert!(began.elapsed() >= LAST && began.elapsed() < LAST * 2, "{:?}", began.elapsed());
    assert_eq!(of(&counts.counts()), [3, 0, 2, 0, 0, 1]);
    assert_eq!(handle.counts().closed(CloseReason::Drained), 2);
    assert_eq!((handle.counts().accepted(), handle.counts().closed_in_all()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_drain_accepts_the_preambles_that_have_passed() {
    let (handle, counts, connector, server) = server(100).await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(begun(&connector, b"yhello").await);
    }
    handle.drain(Duration::from_secs(30));
    for client in &mut clients {
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"hello");
    }
    drop(clients);
    server.await.unwrap().unwrap();
    assert_eq!(of(&counts.counts()), [40, 0, 40, 0, 0, 0]);
    assert_eq!(handle.counts().accepted(), 40);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stops_or_is_dropped_drops_pending_calls() {
    for dropped in [false, true] {
        let (handle, counts, connector, server) = server(1).await;
        let mut taken = begun(&connector, b"y").await;
        echoed(&mut taken, b"x").await;
        let mut half = begun(&connector, b".").await;
        let mut through = begun(&connector, b"y").await;
        // At its limit the server accepts no connections, so neither has begun.
        handle.set_max_connections(0);
        drop(taken);
        handle.set_max_connections(1);
        echoed(&mut through, b"x").await;
        if dropped {
            server.abort();
        } else {
            handle.stop();
        }
        drop(server.await);
        for client in [&mut half, &mut through] {
            let end = client.read(&mut [0]).await;
            assert!(matches!(end, Ok(0)) || end.is_err(), "{end:?}");
        }
        assert_eq!(of(&counts.counts()), [3, 0, 2, 0, 0, 1], "dropped: {dropped}");
        assert_eq!((handle.counts().accepted(), handle.counts().active()), (2, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_drains_deadline_ends_preambles_too() {
    let (handle, counts, connector, server) = server(10).await;
    let mut half = begun(&connector, b".").await;
    tokio::task::yield_now().await;
    let began = Instant::now();
    handle.drain(Duration::from_millis(500));
    server.await.unwrap().unwrap();
    assert_eq!(began.elapsed().as_millis(), 500);
    assert_eq!(half.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(of(&counts.counts()), [1, 0, 0, 0, 0, 1]);
}

#[tokio::test(start_paused = true)]
async fn after_handing_over_it_accepts_nothing_more_and_finishes_its_connections() {
    let (mut listener, counts, connector) = listener().await;
    let mut half = begun(&connector, b".").await;
    let _silent = begun(&connector, b"").await;
    none_within(&mut listener, Duration::from_millis(1)).await;
    let mut waiting = begun(&connector, b"y").await;
    listener.handed_over();
    assert!(listener.has_pending());
    let end = waiting.read(&mut [0]).await;
    assert!(
        matches!(end, Ok(0)) || end.is_err(),
        "left to the process that has the socket now, here none: {end:?}"
    );
    half.write_all(b"y").await.unwrap();
    accept(&mut listener).await;
    // The silent one is dropped after its time.
    none_within(&mut listener, LAST * 2).await;
    assert!(!listener.has_pending());
    assert_eq!(of(&counts.counts()), [2, 0, 1, 0, 0, 1]);
}

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::Write::write(&mut *self.0.lock().unwrap(), bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn each_end_is_a_line_at_debug_with_its_reason_escaped() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    // Set for all threads: otherwise tracing might cache that no subscriber wants a line which
    // another thread logs first.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    // Lines are written from threads of their own, in the span of the caller.
    let _here = tracing::info_span!("this_test").entered();
    let (mut listener, _counts, connector) = listener().await;
    let _quoted = begun(&connector, b"\x1b").await;
    let _silent = begun(&connector, b"").await;
    none_within(&mut listener, DEADLINE * 2).await;
    let crowd: Vec<_> =
        futures::future::join_all((0..=PENDING).map(|_| begun(&connector, b""))).await;
    none_within(&mut listener, Duration::from_secs(1)).await;
    drop(crowd);
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<_> =
        log.lines().filter(|line| line.contains("DEBUG") && line.contains("this_test:")).collect();
    assert_eq!(lines.len(), 3, "{log}");
    assert!(lines[0].contains("a preamble failed peer=\"memory:\" step=\"word\""), "{log}");
    assert!(lines[0].ends_with(r#"error="\n\x1b""#), "{log}");
    assert!(lines[1].contains("a preamble took too long") && lines[1].contains("memory:"), "{log}");
    assert!(lines[2].contains("a preamble was dropped peer=\"memory:\" reason=Silent"), "{log}");
}

#[tokio::test(start_paused = true)]
async fn in_a_drain_silent_preambles_make_room_for_waiting_ones_and_are_dropped_when_their_time_is_over()
 {
    let (handle, counts, connector, server) = server(1).await;
    let mut silent = Vec::new();
    for _ in 0..PENDING {
        silent.push(begun(&connector, b"").await);
    }
    // They wait to be accepted at the last call, when all slots are taken.
    silent.push(connector.connect().await.unwrap());
    let mut late = begun(&connector, b".").await;
    let began = Instant::now();
    handle.drain(DEADLINE * 3);
    tokio::time::sleep(LAST * 2).await;
    // It has the usual time of a preamble, and its connection is served.
    late.write_all(b"yhello").await.unwrap();
    let mut hello = [0; 5];
    late.read_exact(&mut hello).await.unwrap();
    drop(late);
    server.await.unwrap().unwrap();
    assert_eq!(began.elapsed(), LAST * 2);
    assert_eq!(of(&counts.counts()), [PENDING as u64 + 2, 0, 1, 0, 0, PENDING as u64 + 1]);
    assert_eq!(counts.counts().dropped_for(PreambleDrop::Ended), PENDING as u64 - 1);
    assert_eq!(
        handle.drain_report().unwrap().cut(),
        0,
        "a peer that sent nothing has lost nothing"
    );
}
