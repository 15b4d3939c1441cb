//! How many calls a connection may make, and how slowly a frame may arrive.

use std::time::Duration;

use bytes::Bytes;
use ropewalk::layer::LifetimeLayer;
use ropewalk::{
    CloseReason, ConnectionService, Error, Lines, ReadDeadlineLayer, Result, Server, Session,
    framed, reply_fn, service_fn, session,
};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep};

use crate::harness::{ask, assert_reasons, on_memory, on_tcp, rest, shouter};

const SECOND: Duration = Duration::from_secs(1);

fn calls(max: u64) -> LifetimeLayer {
    LifetimeLayer::new(Duration::MAX).max_calls(max)
}

/// Echoes lines, and says goodbye.
fn polite(concurrent: usize) -> impl ConnectionService<Error = Error> {
    let slow = service_fn(async |line: Bytes| {
        sleep(SECOND).await;
        Ok::<_, Error>(line)
    });
    framed(Lines::lf(), slow).concurrent(concurrent).on_drain(|| Bytes::from("goodbye"))
}

#[tokio::test(start_paused = true)]
async fn the_last_call_is_answered_with_a_goodbye_behind_it_and_no_further_frame_is() {
    for concurrent in [1, 8] {
        let (server, connector) =
            on_memory(Server::new().layer(calls(3)), polite(concurrent)).await;
        let mut ahead = connector.connect().await.unwrap();
        ahead.write_all(b"1\n2\n3\n4\n5\n6").await.unwrap();
        assert_eq!(rest(&mut ahead).await, "1\n2\n3\ngoodbye\n");
        // One after the other, the third has its goodbye without another frame.
        let mut slowly = connector.connect().await.unwrap();
        ask(&mut slowly, "1\n", "1\n").await;
        ask(&mut slowly, "2\n", "2\n").await;
        slowly.write_all(b"3\n").await.unwrap();
        assert_eq!(rest(&mut slowly).await, "3\ngoodbye\n");
        // One below the limit.
        let mut few = connector.connect().await.unwrap();
        few.write_all(b"1\n2\n").await.unwrap();
        few.shutdown().await.unwrap();
        assert_eq!(rest(&mut few).await, "1\n2\n");
        assert_reasons(&server.end().await, &[(CloseReason::Done, 1), (CloseReason::MaxCalls, 2)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_reads_an_end_after_so_many_frames() {
    async fn echo(mut s: Session<Lines>) -> Result {
        while let Some(line) = s.next().await? {
            s.feed(line)?;
        }
        assert!(s.next().await?.is_none(), "it stays at its end");
        s.feed("goodbye")
    }
    let (server, connector) =
        on_memory(Server::new().layer(calls(2)), session(Lines::lf(), echo)).await;
    let mut client = connector.connect().await.unwrap();
    client.write_all(b"1\n2\n3\n").await.unwrap();
    assert_eq!(rest(&mut client).await, "1\n2\ngoodbye\n");
    assert_reasons(&server.end().await, &[(CloseReason::MaxCalls, 1)]);
}

#[tokio::test(start_paused = true)]
async fn with_no_call_allowed_no_frame_is_taken() {
    let (server, connector) = on_memory(Server::new().layer(calls(0)), polite(1)).await;
    let mut client = connector.connect().await.unwrap();
    assert_eq!(rest(&mut client).await, "goodbye\n");
    assert_reasons(&server.end().await, &[(CloseReason::MaxCalls, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_fails_counts_and_its_error_is_the_reason_if_it_ends_the_connection() {
    let fails = service_fn(async |_: Bytes| Err::<Bytes, _>(Error::other("as told")));
    let (server, connector) =
        on_memory(Server::new().layer(calls(1)), framed(Lines::lf(), fails)).await;
    let mut client = connector.connect().await.unwrap();
    client.write_all(b"1\n2\n").await.unwrap();
    assert_eq!(rest(&mut client).await, "");
    assert_reasons(&server.end().await, &[(CloseReason::ServiceError, 1)]);
}

#[tokio::test(start_paused = true)]
async fn each_of_a_thousand_connections_has_a_count_of_its_own() {
    let (server, connector) = on_memory(Server::new().layer(calls(1)), shouter()).await;
    for _ in 0..1000 {
        let mut client = connector.connect().await.unwrap();
        client.write_all(b"a\n").await.unwrap();
        assert_eq!(rest(&mut client).await, "A\n");
    }
    assert_reasons(&server.end().await, &[(CloseReason::MaxCalls, 1000)]);
}

#[tokio::test]
async fn over_a_socket_the_answers_arrive_although_more_was_sent() {
    let service =
        framed(Lines::lf(), reply_fn(|line: Bytes| line)).on_drain(|| Bytes::from("goodbye"));
    let server = on_tcp(Server::new().layer(calls(2)), service).await;
    let mut client = server.connect().await;
    client.write_all(&b"line\n".repeat(1000)).await.unwrap();
    assert_eq!(rest(&mut client).await, "line\nline\ngoodbye\n");
    drop(client);
    server.until("it has gone", |counts| counts.active() == 0).await;
    assert_reasons(&server.end().await, &[(CloseReason::MaxCalls, 1)]);
}

#[tokio::test]
async fn over_a_socket_a_connection_ends_at_its_age_with_a_goodbye() {
    let age = Duration::from_millis(100);
    let service =
        framed(Lines::lf(), reply_fn(|line: Bytes| line)).on_drain(|| Bytes::from("goodbye"));
    let server = on_tcp(Server::new().layer(LifetimeLayer::new(age)), service).await;
    let start = std::time::Instant::now();
    let mut client = server.connect().await;
    ask(&mut client, "line\n", "line\n").await;
    assert_eq!(rest(&mut client).await, "goodbye\n");
    assert!(start.elapsed() >= age, "{:?}", start.elapsed());
    drop(client);
    server.until("it has gone", |counts| counts.active() == 0).await;
    assert_reasons(&server.end().await, &[(CloseReason::MaxAge, 1)]);
}

/// When a frame of so many bytes a second is given up, as the first one or after another; `None` if
/// it is answered, after a hundred seconds.
async fn dripped(bytes: usize, first: bool) -> Option<Duration> {
    let patience = Duration::from_millis(5500);
    let layer = ReadDeadlineLayer::new().first_frame(patience).frame(patience).min_rate(10);
    let (server, connector) = on_memory(Server::new().layer(layer), shouter()).await;
    let mut client = connector.connect().await.unwrap();
    if !first {
        ask(&mut client, "a\n", "A\n").await;
    }
    let start = Instant::now();
    let (mut read, mut write) = tokio::io::split(client);
    let dripping = tokio::spawn(async move {
        for _ in 0..100 {
            write.write_all(&vec![b'x'; bytes]).await?;
            sleep(SECOND).await;
        }
        write.write_all(b"\n").await?;
        write.shutdown().await
    });
    let answer = rest(&mut read).await;
    let elapsed = start.elapsed();
    dripping.abort();
    drop(dripping.await);
    drop(read);
    let reason = match (answer.is_empty(), first) {
        (false, _) => CloseReason::Done,
        (true, true) => CloseReason::FirstFrameTimeout,
        (true, false) => CloseReason::FrameTimeout,
    };
    server.until("it has gone", |counts| counts.active() == 0).await;
    assert_reasons(&server.end().await, &[(reason, 1)]);
    answer.is_empty().then_some(elapsed)
}

#[tokio::test(start_paused = true)]
async fn a_frame_may_take_as_long_as_it_needs_at_the_rate_and_a_slower_one_ends() {
    for first in [true, false] {
        // Enough: it takes a hundred seconds, and has its answer.
        assert_eq!(dripped(10, first).await, None);
        // Not enough: after 50 s, 459 bytes have earned it 45 s, and it has 5.5 s by itself.
        assert_eq!(dripped(9, first).await, Some(Duration::from_millis(50_500)));
        // A byte a second has earned no second by then.
        assert_eq!(dripped(1, first).await, Some(Duration::from_millis(5500)));
    }
}

#[tokio::test]
async fn over_a_socket_a_frame_that_came_fast_is_waited_for_and_a_single_byte_is_not() {
    let patience = Duration::from_millis(50);
    let layer = ReadDeadlineLayer::new().first_frame(patience).frame(patience).min_rate(2);
    let server = on_tcp(Server::new().layer(layer), shouter()).await;
    let mut fast = server.connect().await;
    fast.write_all(&[b'x'; 10_000]).await.unwrap();
    server.until("it is served", |counts| counts.active() == 1).await;
    let mut drips = server.connect().await;
    drips.write_all(b"x").await.unwrap();
    assert_eq!(rest(&mut drips).await, "");
    // The other one had its deadline earlier.
    let answer = "X".repeat(10_000) + "\n";
    ask(&mut fast, "\n", &answer).await;
    drop((fast, drips));
    server.until("both have gone", |counts| counts.active() == 0).await;
    let expected = [(CloseReason::Done, 1), (CloseReason::FirstFrameTimeout, 1)];
    assert_reasons(&server.end().await, &expected);
}
