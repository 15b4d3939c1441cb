//! Defaults of a connection that the README's table names, as a running server has them.

use std::future::{pending, poll_fn};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ropewalk::codec::custom::{FindFrame, Span, Strict};
use ropewalk::codec::{CodecError, Encoder};
use ropewalk::layer::LifetimeLayer;
use ropewalk::memory::{self, Connector, MemoryStream};
use ropewalk::{
    CloseReason, Connection, ConnectionLimitLayer, ConnectionService, Error, Lines, RawBytes,
    ReadDeadlineLayer, Reply, Server, Session, framed, reply_fn, service_fn, session,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use crate::harness::{self, Gauge, LONG, Running, ask, on_memory, rest, settle};

const KIB: usize = 1024;
const SECOND: Duration = Duration::from_secs(1);

/// A server on a memory endpoint with so many bytes of room.
async fn with_room(bytes: usize, service: impl ConnectionService) -> (Running, Connector) {
    let (endpoint, connector) = memory::endpoint_with_capacity(bytes);
    (Running::start(Server::new().listen(endpoint).serve(service)).await, connector)
}

/// Frames that begin with `<` and end with `>`.
#[derive(Clone)]
struct Bracketed;

impl FindFrame for Bracketed {
    fn find_frame(&mut self, bytes: &[u8], seen: usize) -> Result<Option<Span>, CodecError> {
        let end = bytes[seen..].iter().position(|&byte| byte == b'>');
        Ok(end.map(|at| Span { lead: 1, content: seen + at - 1, trail: 1 }))
    }
}

impl Encoder<Bytes> for Bracketed {
    type Error = CodecError;

    fn encode(&mut self, frame: Bytes, dst: &mut BytesMut) -> Result<(), CodecError> {
        dst.extend_from_slice(&frame);
        Ok(())
    }
}

#[tokio::test]
async fn a_frame_of_strict_has_64_kib_with_its_envelope() {
    for (content, is_served) in [(64 * KIB - 2, true), (64 * KIB - 1, false)] {
        let leaf = framed(
            Strict::new(Bracketed),
            reply_fn(|frame: Bytes| Bytes::from(frame.len().to_string())),
        );
        let (server, connector) = with_room(128 * KIB, leaf).await;
        let mut client = connector.connect().await.unwrap();
        client.write_all(&[b"<", &vec![b'x'; content][..], b">"].concat()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut heard = Vec::new();
        drop(client.read_to_end(&mut heard).await);
        assert_eq!(!heard.is_empty(), is_served, "{content}");
        assert_eq!(server.end().await.closed(CloseReason::CodecError), u64::from(!is_served));
    }
}

#[tokio::test(start_paused = true)]
async fn a_chunk_of_raw_bytes_has_64_kib_at_most() {
    let largest = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&largest);
    let frames = reply_fn(move |chunk: Bytes| {
        seen.fetch_max(chunk.len(), Ordering::SeqCst);
        Reply::<Bytes>::none()
    });
    let seen = Arc::clone(&largest);
    let chunks = session(Lines::lf(), move |mut s: Session<Lines>| {
        let seen = Arc::clone(&seen);
        async move {
            let mut chunks = s.raw_chunks(300 * KIB as u64)?;
            while let Some(chunk) = chunks.next().await? {
                seen.fetch_max(chunk.len(), Ordering::SeqCst);
            }
            Ok(())
        }
    });
    for (server, connector) in
        [with_room(512 * KIB, framed(RawBytes, frames)).await, with_room(512 * KIB, chunks).await]
    {
        let mut client = connector.connect().await.unwrap();
        client.write_all(&vec![b'x'; 300 * KIB]).await.unwrap();
        client.shutdown().await.unwrap();
        rest(&mut client).await;
        assert_eq!(largest.swap(0, Ordering::SeqCst), 64 * KIB);
        server.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn with_64_kib_of_answers_waiting_nothing_more_is_decoded() {
    let calls = Gauge::default();
    let counted = calls.clone();
    let leaf = framed(
        Lines::lf(),
        reply_fn(move |_: Bytes| {
            drop(counted.enter());
            vec![b'x'; KIB - 1]
        }),
    );
    let (server, connector) = with_room(4 * KIB, leaf).await;
    let mut client = connector.connect().await.unwrap();
    client.write_all(&b"a\n".repeat(1000)).await.unwrap();
    settle().await;
    // The transport took 4 of them.
    assert!((64..=64 + 5).contains(&calls.ever()), "{} answers of 1 KiB", calls.ever());
    drop(client);
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn calls_of_a_connection_are_made_one_at_a_time_and_64_kib_are_read_ahead() {
    let (gate, inside) = (Arc::new(Semaphore::new(0)), Gauge::default());
    let (server, connector) = with_room(KIB, harness::gated(&gate, &inside)).await;
    let mut client = connector.connect().await.unwrap();
    let mut taken = 0;
    while let Ok(written) = timeout(SECOND, client.write(b"a\n")).await {
        taken += written.unwrap();
    }
    assert_eq!((inside.ever(), inside.most()), (1, 1));
    // And what the transport holds, on either side of the last read.
    assert!((64 * KIB..=66 * KIB).contains(&taken), "{taken} bytes were taken");
    drop(client);
    gate.add_permits(100_000);
    server.end().await;
}

#[tokio::test]
async fn after_256_frames_of_one_connection_others_have_their_turn() {
    let calls = Gauge::default();
    let counted = calls.clone();
    let leaf = framed(
        Lines::lf(),
        reply_fn(move |_: Bytes| {
            drop(counted.enter());
            Reply::<Bytes>::none()
        }),
    );
    let (server, connector) = with_room(64 * KIB, leaf).await;
    let mut client = connector.connect().await.unwrap();
    client.write_all(&b"\n".repeat(10_000)).await.unwrap();
    // Woken at once, another task has its turn behind the connection and no later.
    let seen = calls.clone();
    let (mut before, mut most) = (0, 0);
    let other = poll_fn(move |cx| {
        let now = seen.ever();
        (before, most) = (now, most.max(now - before));
        cx.waker().wake_by_ref();
        if now < 10_000 { Poll::Pending } else { Poll::Ready(most) }
    });
    let most = tokio::spawn(other).await.unwrap();
    // A read is a step of the turn as well.
    assert!((255..=256).contains(&most), "{most} frames in a row");
    drop(client);
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn under_the_deadlines_of_the_layer_a_first_frame_has_10_s_any_frame_30_and_silence_60() {
    for (say, seconds, reason) in [
        (&b""[..], 10, CloseReason::FirstFrameTimeout),
        (b"half", 10, CloseReason::FirstFrameTimeout),
        (b"a\nhalf", 30, CloseReason::FrameTimeout),
        (b"a\n", 60, CloseReason::IdleTimeout),
    ] {
        let (endpoint, connector) = memory::endpoint();
        let server = Running::start(
            Server::new()
                .layer(ReadDeadlineLayer::new())
                .listen(endpoint)
                .serve(harness::shouter()),
        )
        .await;
        assert_eq!(
            ended(server, connector, say).await,
            (SECOND * seconds, reason),
            "{}",
            say.escape_ascii()
        );
    }
}

/// After how long a connection ends on which the client says this and no more, and for which
/// reason.
async fn ended(server: Running, connector: Connector, say: &[u8]) -> (Duration, CloseReason) {
    let mut client = connector.connect().await.unwrap();
    client.write_all(say).await.unwrap();
    let start = Instant::now();
    drop(timeout(LONG, client.read_to_end(&mut Vec::new())).await.unwrap());
    let after = start.elapsed();
    drop(client);
    let reasons: Vec<_> = server.end().await.reasons().collect();
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    (after, reasons[0].0)
}

/// A connection that its service has closed, and which its client has not.
async fn closed_at_once() -> (Running, MemoryStream) {
    let leaf = session(Lines::lf(), async |mut s: Session<Lines>| s.feed("bye"));
    let (server, connector) = with_room(KIB, leaf).await;
    let mut client = connector.connect().await.unwrap();
    harness::expect(&mut client, "bye\n").await;
    (server, client)
}

#[tokio::test(start_paused = true)]
async fn a_close_lingers_for_2_s_and_for_16_mib() {
    let start = Instant::now();
    let (server, client) = closed_at_once().await;
    server.until("it is let go", |counts| counts.active() == 0).await;
    assert_eq!(start.elapsed().as_secs(), 2);
    drop(client);
    server.end().await;

    let (server, mut client) = closed_at_once().await;
    let (start, mut taken) = (Instant::now(), 0);
    while let Ok(n) = client.write(&[b'x'; KIB]).await {
        taken += n;
    }
    assert!(
        (16 * KIB * KIB..=16 * KIB * KIB + 64 * KIB).contains(&taken),
        "{taken} bytes were taken"
    );
    assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
    drop(client);
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn of_refused_peers_256_have_2_s_each_for_the_text_and_the_others_no_time() {
    let limit = ConnectionLimitLayer::new(0).refuse_with("no\n");
    let (server, connector) = on_memory(Server::new().layer(limit), harness::shouter()).await;
    let mut clients = Vec::new();
    for _ in 0..300 {
        clients.push(connector.connect().await.unwrap());
    }
    let start = Instant::now();
    server
        .until("those beyond are closed", |counts| {
            counts.closed(CloseReason::RefusedAtOnce) == 300 - 256
        })
        .await;
    assert!(start.elapsed() < SECOND);
    server
        .until("the others are given up", |counts| counts.closed(CloseReason::Refused) == 256)
        .await;
    assert_eq!(start.elapsed().as_secs(), 2);
    drop(clients);
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_service_that_refuses_has_10_s_for_a_peer() {
    let hold = tower::service_fn(async |_: Connection| pending::<Result<(), Error>>().await);
    let limit = ConnectionLimitLayer::new(0).refuse_by(hold);
    let (server, connector) = on_memory(Server::new().layer(limit), harness::shouter()).await;
    let mut client = connector.connect().await.unwrap();
    let start = Instant::now();
    harness::assert_cut(&mut client).await;
    assert_eq!(start.elapsed(), SECOND * 10);
    server.end().await;
}

#[tokio::test]
async fn a_connection_is_served_on_the_runtime_the_server_is_awaited_on() {
    let threads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&threads);
    let leaf = framed(
        Lines::lf(),
        service_fn(move |line: Bytes| {
            seen.lock().unwrap().push(std::thread::current().id());
            async { Ok(line) }
        }),
    );
    let (server, connector) = on_memory(Server::new(), leaf).await;
    ask(&mut connector.connect().await.unwrap(), "a\n", "a\n").await;
    assert_eq!(*threads.lock().unwrap(), [std::thread::current().id()]);
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_taken_a_byte_at_a_time_has_four_times_30_s_for_64_kib() {
    // For a connection that goes on, and for one that closes.
    for say in [&b"a\n"[..], b"a\nclose\n"] {
        let answer = reply_fn(|line: Bytes| {
            let reply = Reply::one(vec![b'x'; 50 * KIB]);
            if line == "close" { reply.then_close() } else { reply }
        });
        let (server, connector) = with_room(16, framed(Lines::lf().unlimited(), answer)).await;
        let mut client = connector.connect().await.unwrap();
        client.write_all(say).await.unwrap();
        let start = Instant::now();
        while client.read_u8().await.is_ok() {
            sleep(SECOND * 29).await;
        }
        assert!((120..=150).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
        drop(client);
        assert_eq!(server.end().await.closed(CloseReason::Timeout), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_memory_endpoint_holds_64_kib_each_way() {
    let (endpoint, connector) = memory::endpoint();
    let _listening = endpoint.bind().await.unwrap();
    let mut client = connector.connect().await.unwrap();
    let mut taken = 0;
    while let Ok(written) = timeout(SECOND, client.write(&[b'x'; KIB])).await {
        taken += written.unwrap();
    }
    assert_eq!(taken, 64 * KIB);
}

#[tokio::test(start_paused = true)]
async fn a_connection_has_30_s_to_end_after_its_maximum_age() {
    let leaf = session(Lines::lf(), async |_: Session<Lines>| pending().await);
    let (server, connector) =
        on_memory(Server::new().layer(LifetimeLayer::new(SECOND * 100)), leaf).await;
    let mut client = connector.connect().await.unwrap();
    let start = Instant::now();
    harness::assert_cut(&mut client).await;
    assert_eq!(start.elapsed(), SECOND * (100 + 30));
    assert_eq!(server.end().await.closed(CloseReason::MaxAge), 1);
}
