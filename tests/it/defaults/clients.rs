//! Defaults of `docs/src/limits.md`, as a running client has them.

use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ropewalk::client::{Client, ClientError, ClientHandle, ClientState, Part, Pipelined, forward};
use ropewalk::client::{Dial, Dialing};
use ropewalk::memory;
use ropewalk::{Addr, Bytes, Lines, Remote, Server, connect, framed, reply_fn};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

use crate::called::{call, ends, nobody, serve, settle, soon};

const HOUR: Duration = Duration::from_secs(3600);

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A place that refuses, or lets everybody wait for ever; and the time of each attempt.
#[derive(Clone, Default)]
struct Nowhere {
    refuses: bool,
    attempts: Arc<Mutex<Vec<Instant>>>,
}

impl Dial for Nowhere {
    fn dial(&self) -> Dialing<'_> {
        self.attempts.lock().unwrap().push(Instant::now());
        match self.refuses {
            true => Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) }),
            false => Box::pin(pending()),
        }
    }

    fn addr(&self) -> Addr {
        Addr::Memory
    }
}

/// A client with all its defaults.
fn client(to: impl Into<Remote>) -> (Pipelined<String, Bytes>, ClientHandle) {
    Client::new().connect(to.into()).pipelined(Lines::lf()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_attempt_has_10_s_and_a_call_30() {
    let began = Instant::now();
    let (store, handle) = client(Remote::dial(Nowhere::default()));
    assert!(matches!(soon(handle.connected()).await, Err(ClientError::Unavailable(_))));
    assert_eq!(began.elapsed(), secs(10));
    let began = Instant::now();
    // It does not fail before, though there is no connection.
    assert!(matches!(soon(store.ask("x")).await, Err(ClientError::TimedOut { sent: false })));
    assert_eq!(began.elapsed(), secs(30));

    let (connector, mut ends) = ends(100).await;
    let (store, _handle) = client(connector);
    let mut end = ends.accept().await;
    let asked = call(&store, "x").await;
    let began = Instant::now();
    end.expect("x\n").await;
    assert!(matches!(soon(asked).await, Err(ClientError::TimedOut { sent: true })));
    assert_eq!(began.elapsed(), secs(30));
}

#[tokio::test(start_paused = true)]
async fn connecting_without_a_client_has_10_s() {
    let began = Instant::now();
    let error = soon(connect(Remote::dial(Nowhere::default()))).await.unwrap_err();
    assert_eq!(began.elapsed(), secs(10), "{error}");
}

#[tokio::test(start_paused = true)]
async fn attempts_are_between_100_ms_and_30_s_apart() {
    let place = Nowhere { refuses: true, ..Nowhere::default() };
    let (_store, _handle) = client(Remote::dial(place.clone()));
    sleep(24 * HOUR).await;
    let attempts = place.attempts.lock().unwrap();
    let waits: Vec<Duration> = attempts.windows(2).map(|two| two[1] - two[0]).collect();
    // The runtime's clock counts in milliseconds, and rounds up.
    let most = secs(30) + Duration::from_millis(1);
    assert!(
        waits.iter().all(|wait| (Duration::from_millis(100)..=most).contains(wait)),
        "{waits:?}"
    );
    assert!(
        waits[0] <= Duration::from_millis(201),
        "the first bound is twice the floor: {:?}",
        waits[0]
    );
    // Of some 5700 one is close to either end.
    assert!(waits.iter().any(|wait| *wait > secs(29)), "{:?}", waits.iter().max());
    assert!(waits.iter().any(|wait| *wait < secs(1)));
}

#[tokio::test(start_paused = true)]
async fn of_a_hundred_calls_64_are_in_flight() {
    let (connector, mut ends) = ends(10_000).await;
    let (store, handle) = client(connector);
    let mut end = ends.accept().await;
    for _ in 0..100 {
        let store = store.clone();
        tokio::spawn(async move { store.ask("x").await });
    }
    settle().await;
    assert_eq!(handle.in_flight(), 64);
    end.expect(&"x\n".repeat(64)).await;
    assert!(timeout(secs(1), end.0.read(&mut [0])).await.is_err(), "more were sent");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_nothing_for_60_s_is_replaced() {
    let (connector, mut ends) = ends(100).await;
    let client = Client::new().connect(connector).call_within(HOUR);
    let (store, handle) = client.pipelined::<String, _>(Lines::lf()).unwrap();
    let mut end = ends.accept().await;
    let asked = call(&store, "x").await;
    end.expect("x\n").await;
    let began = Instant::now();
    assert!(matches!(soon(asked).await, Err(ClientError::MayHaveArrived(_))));
    assert_eq!(began.elapsed(), secs(60));
    assert!(matches!(handle.state(), ClientState::Waiting { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_idle_stays_and_grows_as_old_as_it_may() {
    let (connector, _server) = serve(framed(Lines::lf(), reply_fn(|line: Bytes| line)));
    let (store, handle) = client(connector);
    for _ in 0..2 {
        assert_eq!(soon(store.ask("x")).await.unwrap(), "x");
        sleep(240 * HOUR).await;
    }
    assert_eq!(handle.counts().connections(), 1);
}

/// How the answer of many frames of this length ends, with so many of them before its last one.
async fn ask_for_many(more: usize, length: usize) -> Result<usize, ClientError> {
    let (connector, mut ends) = ends(1 << 20).await;
    let part = |line: &Bytes| if line.starts_with(b".") { Part::Last } else { Part::More };
    let client = Client::new().connect(connector).answers(part);
    let (list, _handle) = client.pipelined::<String, _>(Lines::lf().max(2 << 20)).unwrap();
    let mut end = ends.accept().await;
    let asked = call(&list, "list").await;
    let answer = tokio::spawn(async move {
        let line = [vec![b'x'; length - 1], b"\n".to_vec()].concat();
        for _ in 0..more {
            end.0.write_all(&line).await?;
        }
        end.0.write_all(b".\n").await?;
        // It is open until the client is done.
        end.0.read_to_end(&mut Vec::new()).await
    });
    let answered = soon(asked).await.map(|frames| frames.len());
    answer.abort();
    answered
}

#[tokio::test(start_paused = true)]
async fn an_answer_has_65_536_frames_and_16_mib_at_most() {
    assert_eq!(ask_for_many(65_535, 2).await.unwrap(), 65_536);
    assert!(matches!(ask_for_many(65_536, 2).await, Err(ClientError::MayHaveArrived(_))));
    // The last frame has two bytes.
    let mib = 1 << 20;
    assert!(matches!(ask_for_many(16, mib).await, Err(ClientError::MayHaveArrived(_))));
    assert_eq!(ask_for_many(15, mib).await.unwrap(), 16);
}

#[tokio::test(start_paused = true)]
async fn a_forwarded_connection_has_15_s_to_connect_and_may_be_silent_for_ever() {
    let began = Instant::now();
    let (connector, _server) = serve(forward(Remote::dial(Nowhere::default())).unwrap());
    let mut refused = soon(connector.connect()).await.unwrap();
    assert_eq!(soon(refused.read(&mut [0])).await.unwrap_or(0), 0);
    assert_eq!(began.elapsed(), secs(15));

    let (behind, _echo) = serve(framed(Lines::lf(), reply_fn(|line: Bytes| line)));
    let (endpoint, connector) = memory::endpoint();
    tokio::spawn(Server::new().listen(endpoint).serve(forward(behind).unwrap()).into_future());
    let mut stream = soon(connector.connect()).await.unwrap();
    for _ in 0..2 {
        stream.write_all(b"x\n").await.unwrap();
        soon(stream.read_exact(&mut [0; 2])).await.unwrap();
        sleep(240 * HOUR).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_lives_as_long_as_its_calls_after_its_last_service_was_dropped() {
    let (connector, mut ends) = ends(100).await;
    let (store, handle) = client(connector);
    let mut end = ends.accept().await;
    let asked = call(&store, "x").await;
    drop(store);
    end.expect("x\n").await;
    let began = Instant::now();
    assert!(matches!(soon(asked).await, Err(ClientError::TimedOut { sent: true })));
    assert_eq!(began.elapsed(), secs(30));
    // Its answer is waited for as long as that of any call.
    soon(handle.ended()).await;
    assert_eq!(began.elapsed(), secs(60));
    // One without a connection and without calls ends at once.
    let (store, handle) = client(nobody());
    drop(store);
    let began = Instant::now();
    soon(handle.ended()).await;
    assert_eq!(began.elapsed(), secs(0));
}
