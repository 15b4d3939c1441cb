//! Deadlines on the peer: its first frame, each frame, and the time between two.

use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use ropewalk::memory::{Connector, MemoryStream};
use ropewalk::{
    CloseReason, ConnectionService, Error, Lines, ReadDeadlineLayer, Result, Server, Session,
    framed, service_fn, session,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, advance, sleep};

use crate::harness::{Running, ask, assert_reasons, on_memory, on_tcp, rest, settle, shouter};

const SECOND: Duration = Duration::from_secs(1);

async fn deadlines(service: impl ConnectionService<Error = Error>) -> (Running, Connector) {
    on_memory(Server::new().layer(ReadDeadlineLayer::new()), service).await
}

/// Sends a byte a second until it is cut off, then tells when that was and what was heard.
async fn drip(client: MemoryStream) -> (Duration, String) {
    let start = Instant::now();
    let (mut read, mut write) = tokio::io::split(client);
    let dripping = tokio::spawn(async move {
        while write.write_all(b"x").await.is_ok() {
            sleep(SECOND).await;
        }
    });
    let heard = rest(&mut read).await;
    let ended = start.elapsed();
    dripping.abort();
    (ended, heard)
}

async fn ended_by(server: Running, reason: CloseReason) {
    server.until("it has ended", |counts| counts.active() == 0).await;
    assert_reasons(&server.end().await, &[(reason, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_ended_at_the_first_frame_deadline() {
    let (server, connector) = deadlines(shouter()).await;
    let mut client = connector.connect().await.unwrap();
    let start = Instant::now();
    assert_eq!(rest(&mut client).await, "");
    assert_eq!(start.elapsed(), 10 * SECOND);
    ended_by(server, CloseReason::FirstFrameTimeout).await;
}

#[tokio::test(start_paused = true)]
async fn a_first_frame_that_drips_is_no_excuse() {
    let (server, connector) = deadlines(shouter()).await;
    let (ended, heard) = drip(connector.connect().await.unwrap()).await;
    assert_eq!((ended, &*heard), (10 * SECOND, ""));
    ended_by(server, CloseReason::FirstFrameTimeout).await;
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_drips_is_ended_at_the_frame_deadline() {
    let (server, connector) = deadlines(shouter()).await;
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "first\n", "FIRST\n").await;
    sleep(50 * SECOND).await;
    let (ended, heard) = drip(client).await;
    assert_eq!((ended, &*heard), (30 * SECOND, ""));
    ended_by(server, CloseReason::FrameTimeout).await;
}

#[tokio::test(start_paused = true)]
async fn every_frame_has_the_whole_deadline() {
    let (server, connector) = deadlines(shouter()).await;
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "first\n", "FIRST\n").await;
    for _ in 0..5 {
        client.write_all(b"ha").await.unwrap();
        sleep(29 * SECOND).await;
        // The end of one and the beginning of the next in one piece.
        ask(&mut client, "lf\nan", "HALF\n").await;
        sleep(29 * SECOND).await;
        ask(&mut client, "other\n", "ANOTHER\n").await;
        sleep(59 * SECOND).await;
    }
    drop(client);
    ended_by(server, CloseReason::Done).await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_peer_is_ended_at_the_idle_deadline() {
    let (server, connector) = deadlines(shouter()).await;
    let mut client = connector.connect().await.unwrap();
    for _ in 0..3 {
        ask(&mut client, "a\n", "A\n").await;
        sleep(59 * SECOND).await;
    }
    ask(&mut client, "a\n", "A\n").await;
    let start = Instant::now();
    assert_eq!(rest(&mut client).await, "");
    assert_eq!(start.elapsed(), 60 * SECOND);
    ended_by(server, CloseReason::IdleTimeout).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_waits_for_a_slow_answer_is_ended_by_no_deadline() {
    let slow = || {
        service_fn(async |line: Bytes| {
            sleep(500 * SECOND).await;
            Ok(line)
        })
    };
    for concurrent in [1, 4] {
        // With half a frame behind it, and alone.
        for more in ["", "ha"] {
            let (server, connector) =
                deadlines(framed(Lines::lf(), slow()).concurrent(concurrent)).await;
            let mut client = connector.connect().await.unwrap();
            let start = Instant::now();
            ask(&mut client, &format!("a\n{more}"), "a\n").await;
            assert_eq!(start.elapsed(), 500 * SECOND);
            // The peer's turn again.
            let reason =
                if more.is_empty() { CloseReason::IdleTimeout } else { CloseReason::FrameTimeout };
            assert_eq!(rest(&mut client).await, "");
            let due = if more.is_empty() { 60 } else { 30 };
            assert_eq!(start.elapsed(), (500 + due) * SECOND, "{concurrent} at once, {more:?}");
            drop(client);
            ended_by(server, reason).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_does_something_else_is_not_waiting() {
    let leaf = session(Lines::lf(), async |mut s: Session<Lines>| {
        sleep(100 * SECOND).await;
        let mut turns = 0;
        while turns < 5 {
            tokio::select! {
                line = s.next() => match line? {
                    Some(line) => s.feed(line)?,
                    None => return Ok(()),
                },
                () = sleep(9 * SECOND) => {
                    sleep(100 * SECOND).await;
                    turns += 1;
                }
            }
            // The same of raw bytes.
            tokio::select! {
                raw = s.raw(1) => drop(raw?),
                () = sleep(SECOND) => sleep(100 * SECOND).await,
            }
        }
        s.send("still there").await
    });
    let layer = ReadDeadlineLayer::new().first_frame(51 * SECOND);
    let (server, connector) = on_memory(Server::new().layer(layer), leaf).await;
    let mut client = connector.connect().await.unwrap();
    assert_eq!(rest(&mut client).await, "still there\n");
    drop(client);
    ended_by(server, CloseReason::Done).await;
}

#[tokio::test(start_paused = true)]
async fn pushes_do_not_keep_an_idle_peer() {
    let leaf = session(Lines::lf(), async |mut s: Session<Lines>| {
        loop {
            tokio::select! {
                line = s.next() => match line? {
                    Some(line) => s.feed(line)?,
                    None => return Ok(()),
                },
                () = sleep(7 * SECOND) => s.feed("tick")?,
            }
        }
    });
    let (server, connector) = deadlines(leaf).await;
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "a\n", "a\n").await;
    let start = Instant::now();
    assert_eq!(rest(&mut client).await, "tick\n".repeat(8));
    assert_eq!(start.elapsed(), 60 * SECOND);
    ended_by(server, CloseReason::IdleTimeout).await;
}

#[tokio::test(start_paused = true)]
async fn a_session_may_say_goodbye_and_the_reason_stays() {
    let leaf = session(Lines::lf(), async |mut s: Session<Lines>| {
        let error = s.next().await.unwrap_err();
        assert!(error.is_read_timeout() && !Error::other("busy").is_read_timeout());
        s.feed(format!("421 {error}"))?;
        assert!(s.next().await?.is_none(), "nothing more comes");
        Ok(())
    });
    let (server, connector) = deadlines(leaf).await;
    let mut client = connector.connect().await.unwrap();
    assert_eq!(rest(&mut client).await, "421 the peer sent no complete first frame in time\n");
    drop(client);
    ended_by(server, CloseReason::FirstFrameTimeout).await;
}

#[tokio::test(start_paused = true)]
async fn on_error_may_say_goodbye_as_well() {
    let leaf = framed(Lines::lf(), service_fn(async |line: Bytes| Ok(line)))
        .on_error(|error: &Error| Bytes::from(format!("421 {error}")));
    let (server, connector) = deadlines(leaf).await;
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "a\n", "a\n").await;
    assert_eq!(rest(&mut client).await, "421 the peer was idle for too long\n");
    drop(client);
    ended_by(server, CloseReason::IdleTimeout).await;
}

#[tokio::test(start_paused = true)]
async fn a_session_may_change_them_on_the_way() {
    let leaf = session(Lines::lf(), async |mut s: Session<Lines>| {
        while let Some(line) = s.next().await? {
            s.set_read_deadlines(s.read_deadlines().idle(None));
            s.feed(line)?;
        }
        Ok(())
    });
    let (server, connector) = deadlines(leaf).await;
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "subscribe\n", "subscribe\n").await;
    sleep(3600 * SECOND).await;
    ask(&mut client, "a\n", "a\n").await;
    let (ended, _) = drip(client).await;
    assert_eq!(ended, 30 * SECOND, "the others stay");
    ended_by(server, CloseReason::FrameTimeout).await;
}

#[tokio::test(start_paused = true)]
async fn raw_bytes_are_under_the_frame_deadline() {
    let leaf = session(Lines::lf(), async |mut s: Session<Lines>| {
        s.next().await?;
        s.raw(1000).await.map(drop)
    });
    let (server, connector) = deadlines(leaf).await;
    for silent in [false, true] {
        let mut client = connector.connect().await.unwrap();
        client.write_all(b"put\n").await.unwrap();
        let start = Instant::now();
        if silent {
            assert_eq!(rest(&mut client).await, "");
        } else {
            drip(client).await;
        }
        assert_eq!(start.elapsed(), 30 * SECOND, "{silent}");
    }
    server.until("both have ended", |counts| counts.active() == 0).await;
    assert_reasons(&server.end().await, &[(CloseReason::FrameTimeout, 2)]);
}

#[tokio::test(start_paused = true)]
async fn without_the_layer_a_silent_peer_stays() {
    let (server, connector) = on_memory(Server::new(), shouter()).await;
    let mut client = connector.connect().await.unwrap();
    sleep(100_000 * SECOND).await;
    ask(&mut client, "a\n", "A\n").await;
    drop(client);
    ended_by(server, CloseReason::Done).await;
}

#[tokio::test(start_paused = true)]
async fn absurd_deadlines_do_what_they_say() {
    let layer = ReadDeadlineLayer::new()
        .first_frame(Duration::MAX)
        .idle(Duration::MAX)
        .frame(Duration::from_nanos(1));
    let (server, connector) = on_memory(Server::new().layer(layer), shouter()).await;
    let mut client = connector.connect().await.unwrap();
    sleep(1000 * SECOND).await;
    ask(&mut client, "a\n", "A\n").await;
    sleep(1000 * SECOND).await;
    client.write_all(b"half").await.unwrap();
    assert_eq!(rest(&mut client).await, "");
    ended_by(server, CloseReason::FrameTimeout).await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_them() {
    let (server, connector) = deadlines(shouter()).await;
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "a\n", "A\n").await;
    let start = Instant::now();
    server.handle().drain(100 * SECOND);
    assert_eq!(rest(&mut client).await, "");
    assert_eq!(start.elapsed(), Duration::ZERO);
    drop(client);
    assert_reasons(&server.over().await, &[(CloseReason::Drained, 1)]);
}

/// A process that was kept from running finds all timers due, and learns of arrived bytes piece
/// by piece.
#[test]
fn bytes_that_arrived_before_the_deadline_count_however_late_they_are_read() -> Result {
    // The runtime hears of one socket a turn, and of all timers.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .max_io_events_per_tick(1)
        .build()?;
    runtime.block_on(async {
        let server =
            on_tcp(Server::new().layer(ReadDeadlineLayer::new().idle(SECOND)), shouter()).await;
        let mut clients = Vec::new();
        for _ in 0..20 {
            let mut client = server.connect().await;
            ask(&mut client, "a\n", "A\n").await;
            clients.push(client.into_std().unwrap());
        }
        for client in &mut clients {
            client.write_all(b"b\n").unwrap();
        }
        advance(100 * SECOND).await;
        for client in clients {
            let mut client = tokio::net::TcpStream::from_std(client).unwrap();
            let mut heard = [0; 2];
            client.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"B\n");
        }
        settle().await;
        server.end().await;
    });
    Ok(())
}
