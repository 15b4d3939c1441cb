//! A deadline for each call.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use ropewalk_middleware::{CallDeadlineLayer, CallTimedOut, CallTimer};
use tokio::time::{Instant, advance, sleep};
use tower::{Layer, Service, ServiceExt, service_fn};

const SECOND: Duration = Duration::from_secs(1);
const FRAME: Bytes = Bytes::from_static(b"frame");

/// Takes as many seconds as it is told.
fn slow() -> impl Service<Bytes, Response = u64, Error = io::Error, Future: Send> + Clone {
    service_fn(async |frame: Bytes| {
        let seconds = frame.len() as u64;
        sleep(SECOND * u32::try_from(seconds).unwrap()).await;
        Ok(seconds)
    })
}

fn seconds(n: usize) -> Bytes {
    vec![b'x'; n].into()
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_in_time_answers() {
    let service = CallDeadlineLayer::new(5 * SECOND).layer(slow());
    for n in 0..5 {
        assert_eq!(service.clone().oneshot(seconds(n)).await.unwrap(), n as u64);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_late_fails_at_its_deadline() {
    let service = CallDeadlineLayer::new(5 * SECOND).layer(slow());
    let start = Instant::now();
    let error = service.oneshot(seconds(6)).await.unwrap_err();
    assert!(error.is::<CallTimedOut>(), "{error}");
    assert_eq!(error.to_string(), "the call took longer than its deadline allows");
    assert_eq!(start.elapsed(), 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn each_call_of_a_connection_has_the_whole_deadline() {
    let mut service = CallDeadlineLayer::new(5 * SECOND).layer(slow());
    for round in 0..10 {
        assert_eq!(
            service.ready().await.unwrap().call(seconds(4)).await.unwrap(),
            4,
            "round {round}"
        );
        let start = Instant::now();
        assert!(service.ready().await.unwrap().call(seconds(7)).await.is_err(), "round {round}");
        assert_eq!(start.elapsed(), 5 * SECOND, "round {round}");
        sleep(SECOND * round).await;
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_at_the_same_time_each_have_theirs() {
    let mut service = CallDeadlineLayer::new(5 * SECOND).layer(slow());
    let start = Instant::now();
    let early = service.call(seconds(9));
    let early = tokio::spawn(early);
    sleep(2 * SECOND).await;
    let late = tokio::spawn(service.call(seconds(9)));
    let in_time = tokio::spawn(service.call(seconds(1)));
    assert!(early.await.unwrap().is_err());
    assert_eq!(start.elapsed(), 5 * SECOND);
    assert!(late.await.unwrap().is_err());
    assert_eq!(start.elapsed(), 7 * SECOND);
    assert_eq!(in_time.await.unwrap().unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_uses_up_its_task_s_turns_is_late_all_the_same() {
    let busy = service_fn(async |_: Bytes| {
        loop {
            tokio::task::consume_budget().await;
        }
        #[allow(unreachable_code, reason = "it says what the type is")]
        Ok::<(), io::Error>(())
    });
    let call = tokio::spawn(CallDeadlineLayer::new(5 * SECOND).layer(busy).oneshot(FRAME));
    for _ in 0..10 {
        advance(SECOND).await;
    }
    assert!(call.is_finished());
    assert!(call.await.unwrap().unwrap_err().is::<CallTimedOut>());
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_service_goes_through_as_it_is() {
    let refusing = service_fn(async |_: Bytes| Err::<(), _>(io::Error::other("no")));
    let error = CallDeadlineLayer::new(SECOND).layer(refusing).oneshot(FRAME).await.unwrap_err();
    assert_eq!(error.downcast::<io::Error>().unwrap().to_string(), "no");
}

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn the_timer_of_a_connection_fires_once_a_deadline_however_many_calls_wait() {
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut cx = Context::from_waker(&waker);
    let done = AtomicBool::new(false);
    let in_time = service_fn(|_: Bytes| {
        poll_fn(|_| {
            if done.load(Ordering::SeqCst) {
                Poll::Ready(io::Result::Ok(()))
            } else {
                Poll::Pending
            }
        })
    });
    let mut service = CallDeadlineLayer::new(10 * SECOND).layer(in_time);
    let mut timer = CallTimer::default();
    // A call a second, each of which waits for half of it.
    for _ in 0..100 {
        let mut call = Box::pin(service.call(FRAME));
        for wanted in [false, true] {
            done.store(wanted, Ordering::SeqCst);
            let lent = timer.lend();
            assert_eq!(call.as_mut().poll(&mut cx).is_ready(), wanted);
            timer = lent.end();
            advance(SECOND / 2).await;
        }
    }
    let woken = woken.0.load(Ordering::SeqCst);
    assert!((5..=11).contains(&woken), "woken {woken} times");
}

#[tokio::test(start_paused = true)]
async fn a_shorter_deadline_is_kept_with_the_timer_of_a_longer_one() {
    let mut cx = Context::from_waker(Waker::noop());
    let (mut long, mut short) =
        (CallDeadlineLayer::new(60 * SECOND), CallDeadlineLayer::new(5 * SECOND));
    let mut timer = CallTimer::default();
    for layer in [&mut long, &mut short] {
        let mut service = layer.layer(slow());
        let mut call = Box::pin(service.call(seconds(9)));
        let start = Instant::now();
        let lent = timer.lend();
        assert!(call.as_mut().poll(&mut cx).is_pending());
        timer = lent.end();
        let lent = timer.lend();
        let ended = call.await;
        timer = lent.end();
        match ended {
            Ok(seconds) => assert_eq!(seconds, 9),
            Err(error) => assert!(error.is::<CallTimedOut>() && start.elapsed() == 5 * SECOND),
        }
    }
    drop(timer);
}

#[tokio::test(start_paused = true)]
async fn a_timer_that_is_lent_within_a_loan_leaves_the_outer_one_as_it_was() {
    let wait =
        async |layer: &CallDeadlineLayer| layer.layer(slow()).call(seconds(1)).await.unwrap();
    let layer = CallDeadlineLayer::new(5 * SECOND);
    let outer = CallTimer::default().lend();
    let inner = CallTimer::default().lend();
    wait(&layer).await;
    assert!(format!("{:?}", inner.end()).contains("is_set: true"));
    assert!(format!("{:?}", outer.end()).contains("is_set: false"));
    // If no timer is lent, no timer is kept.
    wait(&layer).await;
    assert!(format!("{:?}", CallTimer::default().lend().end()).contains("is_set: false"));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_beyond_the_clock_never_expires() {
    let service = CallDeadlineLayer::new(Duration::MAX).layer(slow());
    assert_eq!(service.oneshot(seconds(100)).await.unwrap(), 100);
}

#[test]
fn a_call_that_is_answered_at_once_needs_no_runtime() {
    // Nor a timer, of which there are none without one.
    let ready = service_fn(|frame: Bytes| std::future::ready(Ok::<_, io::Error>(frame)));
    let call = Box::pin(CallDeadlineLayer::new(SECOND).layer(ready).call(FRAME));
    let Poll::Ready(answer) = { call }.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    else {
        panic!("not ready")
    };
    assert_eq!(answer.unwrap(), FRAME);
}
