//! The layers of the chapter, under a leaf: a backend that fails, is slow, or can't be cloned.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ropewalk::layer::BoxError;
use ropewalk::memory::{self, MemoryStream};
use ropewalk::{Error, Lines, Server, framed};
use ropewalk_example_backends::{Backend, breaker, hedged, queued, retried};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::time::{Instant, sleep};
use tower::service_fn;

const SECOND: Duration = Duration::from_secs(1);

/// A backend whose nth call does this; with the count of its calls.
fn backend<A, Fut>(calls: &Arc<AtomicUsize>, answer: A) -> impl Backend + use<A, Fut>
where
    A: Fn(usize) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    let calls = Arc::clone(calls);
    service_fn(move |frame: Bytes| {
        let answer = answer(calls.fetch_add(1, Ordering::Relaxed));
        async move { answer.await.map(|()| frame) }
    })
}

/// A connection to a server that answers lines by this backend.
async fn connect(service: impl Backend) -> BufReader<MemoryStream> {
    let (endpoint, connector) = memory::endpoint();
    let service = framed(Lines::lf(), service).on_error(|error: &Error| Bytes::from(error.to_string()));
    let server = Server::new().listen(endpoint).serve(service).bind().await.unwrap();
    tokio::spawn(server);
    BufReader::new(connector.connect().await.unwrap())
}

async fn ask(client: &mut BufReader<MemoryStream>, line: &str) -> String {
    client.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    client.read_line(&mut answer).await.unwrap();
    answer.trim_end().to_owned()
}

/// A backend that is down until it is told otherwise.
fn down(calls: &Arc<AtomicUsize>, is_well: &Arc<AtomicBool>) -> impl Backend + use<> {
    let is_well = Arc::clone(is_well);
    let answer = move |_| std::future::ready(if is_well.load(Ordering::Relaxed) { Ok(()) } else { Err("down".into()) });
    backend(calls, answer)
}

// The breaker reads the clock of the machine, which doesn't stand still.
#[tokio::test(start_paused = true)]
async fn a_breaker_answers_without_the_backend_while_it_fails() {
    let calls = Arc::new(AtomicUsize::new(0));
    let mut client = connect(breaker(down(&calls, &Arc::default()), 3600 * SECOND)).await;
    for _ in 0..20 {
        assert_eq!(ask(&mut client, "get a").await, "inner service error: down");
    }
    for _ in 0..30 {
        assert_eq!(ask(&mut client, "get a").await, "circuit is open; call not permitted");
    }
    assert_eq!(calls.load(Ordering::Relaxed), 20, "half of twenty have failed, and it is left alone");
}

#[tokio::test(start_paused = true)]
async fn a_breaker_looks_again_after_its_time() {
    let (calls, is_well) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let mut client = connect(breaker(down(&calls, &is_well), Duration::ZERO)).await;
    for _ in 0..20 {
        assert_ne!(ask(&mut client, "get a").await, "get a");
    }
    is_well.store(true, Ordering::Relaxed);
    for _ in 0..5 {
        assert_eq!(ask(&mut client, "get a").await, "get a");
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_is_tried_again_within_a_budget_and_a_write_is_not() {
    let calls = Arc::new(AtomicUsize::new(0));
    let every_other = |n: usize| std::future::ready(if n.is_multiple_of(2) { Err("lost".into()) } else { Ok(()) });
    let mut client = connect(retried(backend(&calls, every_other))).await;
    assert_eq!(ask(&mut client, "get a").await, "get a");
    assert_eq!(ask(&mut client, "set a").await, "lost");
    assert_eq!(calls.load(Ordering::Relaxed), 3);
    // A backend that is down is asked a little more often than without retries, and not three times as often.
    calls.store(0, Ordering::Relaxed);
    let down = |_| std::future::ready(Err("down".into()));
    let mut client = connect(retried(backend(&calls, down))).await;
    for _ in 0..1000 {
        assert_eq!(ask(&mut client, "get a").await, "down");
    }
    let asked = calls.load(Ordering::Relaxed);
    assert!((1000..=1200).contains(&asked), "{asked}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_is_asked_for_a_second_time() {
    let calls = Arc::new(AtomicUsize::new(0));
    let slow_once = |n: usize| sleep_for(if n == 100 { 60 * SECOND } else { SECOND / 100 });
    let mut client = connect(hedged(backend(&calls, slow_once))).await;
    // Its record of earlier durations is replaced every ten seconds.
    for _ in 0..100 {
        assert_eq!(ask(&mut client, "get a").await, "get a");
        sleep(SECOND / 8).await;
    }
    let start = Instant::now();
    assert_eq!(ask(&mut client, "get a").await, "get a");
    assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
}

async fn sleep_for(time: Duration) -> Result<(), BoxError> {
    sleep(time).await;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_can_not_be_cloned_is_shared_by_a_queue() {
    let calls = Arc::new(AtomicUsize::new(0));
    let mut shared = connect(queued(backend(&calls, |_| sleep_for(SECOND)))).await;
    assert_eq!(ask(&mut shared, "get a").await, "get a");
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}
