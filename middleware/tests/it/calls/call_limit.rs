//! A cap on the calls under way.

use std::convert::Infallible;
use std::future::{Pending, pending};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use ropewalk_middleware::{CallLimitLayer, CallRefused};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, yield_now};
use tokio::time::timeout;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::common::{Hold, settle};

const FRAME: Bytes = Bytes::from_static(b"frame");

/// Answers when the gate opens, and counts the calls inside.
fn gated(
    gate: &Arc<Semaphore>,
    inside: &Hold,
) -> impl Service<Bytes, Response = (), Error = Infallible, Future: Send> + Clone + Send + 'static + use<>
{
    let (gate, inside) = (Arc::clone(gate), inside.clone());
    service_fn(move |_: Bytes| {
        let (gate, inside) = (Arc::clone(&gate), inside.enter());
        async move {
            gate.acquire().await.unwrap().forget();
            drop(inside);
            Ok(())
        }
    })
}

fn never()
-> impl Service<Bytes, Response = (), Error = Infallible, Future = Pending<Result<(), Infallible>>>
+ Clone {
    service_fn(|_: Bytes| pending())
}

/// There for a hang only.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), future).await.expect("it does not hang")
}

fn is_ready<S: Service<Bytes>>(service: &mut S) -> bool {
    service.poll_ready(&mut Context::from_waker(Waker::noop())).is_ready()
}

#[tokio::test]
async fn no_more_than_the_cap_are_under_way_and_all_get_their_turn() {
    let (gate, inside) = (Arc::new(Semaphore::new(0)), Hold::default());
    let limit = CallLimitLayer::new(3);
    let service = limit.layer(gated(&gate, &inside));
    let mut calls = JoinSet::new();
    for _ in 0..20 {
        calls.spawn(service.clone().oneshot(FRAME));
    }
    settle().await;
    assert_eq!((inside.now(), limit.active()), (3, 3));
    for left in (0..20).rev() {
        gate.add_permits(1);
        soon(calls.join_next()).await.unwrap().unwrap().unwrap();
        settle().await;
        assert_eq!((inside.now(), limit.active()), (left.min(3), left.min(3)));
    }
    assert_eq!((inside.most(), inside.ever()), (3, 20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_cap_is_exact_and_no_waiter_is_forgotten_on_several_threads() {
    for cap in [1, 2, 7] {
        let inside = Hold::default();
        let counting = inside.clone();
        let limit = CallLimitLayer::new(cap);
        let service = limit.layer(service_fn(move |_: Bytes| {
            let inside = counting.enter();
            async move {
                yield_now().await;
                drop(inside);
                Ok::<_, Infallible>(())
            }
        }));
        let mut tasks = JoinSet::new();
        for _ in 0..16 {
            let mut service = service.clone();
            tasks.spawn(async move {
                for n in 0..500 {
                    if n % 3 == 0 {
                        // Somebody looks in, perhaps gets a place or a place in the queue, and goes
                        // away again.
                        is_ready(&mut service.clone());
                    }
                    service.ready().await.unwrap().call(FRAME).await.unwrap();
                }
            });
        }
        soon(tasks.join_all()).await;
        assert!(inside.most() <= cap, "{} at once", inside.most());
        assert_eq!((inside.ever(), limit.active()), (16 * 500, 0));
    }
}

#[tokio::test]
async fn the_longest_waiting_call_is_next_even_beside_a_busy_neighbour() {
    let gate = Arc::new(Semaphore::new(0));
    let service = CallLimitLayer::new(1).layer(gated(&gate, &Hold::default()));
    let mut greedy = service.clone();
    let first = tokio::spawn(greedy.ready().await.unwrap().call(FRAME));
    settle().await;
    let mut order = Vec::new();
    let (sender, mut turns) = tokio::sync::mpsc::unbounded_channel();
    for n in 0..3 {
        let (service, sender) = (service.clone(), sender.clone());
        tokio::spawn(async move {
            service.oneshot(FRAME).await.unwrap();
            sender.send(n).unwrap();
        });
        settle().await;
    }
    gate.add_permits(1);
    soon(first).await.unwrap().unwrap();
    // It has just given its place back, and does not get it again before the others had it.
    let again = tokio::spawn(async move {
        greedy.ready().await.unwrap().call(FRAME).await.unwrap();
        sender.send(99).unwrap();
    });
    for _ in 0..4 {
        gate.add_permits(1);
        order.push(soon(turns.recv()).await.unwrap());
    }
    soon(again).await.unwrap();
    assert_eq!(order, [0, 1, 2, 99]);
}

#[tokio::test]
async fn a_place_is_given_back_however_the_call_ends() {
    let limit = CallLimitLayer::new(1);
    // Dropped.
    let mut service = limit.layer(never());
    drop(service.ready().await.unwrap().call(FRAME));
    assert_eq!(limit.active(), 0);
    // Reserved and not used.
    assert!(is_ready(&mut service));
    assert_eq!(limit.active(), 1);
    drop(service);
    assert_eq!(limit.active(), 0);
    // An error.
    let failing = limit.layer(service_fn(async |_: Bytes| Err::<(), _>("no")));
    failing.oneshot(FRAME).await.unwrap_err();
    assert_eq!(limit.active(), 0);
    // A panic, in the call and in the future.
    let mut falls = limit
        .layer(service_fn(|_: Bytes| -> Pending<Result<(), Infallible>> { panic!("as asked") }));
    falls.ready().await.unwrap();
    AssertUnwindSafe(async { falls.call(FRAME).await }).catch_unwind().await.unwrap_err();
    assert_eq!(limit.active(), 0);
    let falls =
        limit.layer(service_fn(async |_: Bytes| -> Result<(), Infallible> { panic!("as asked") }));
    AssertUnwindSafe(falls.oneshot(FRAME)).catch_unwind().await.unwrap_err();
    assert_eq!(limit.active(), 0);
}

#[tokio::test]
async fn a_place_is_free_as_soon_as_the_call_is_done() {
    let limit = CallLimitLayer::new(1);
    let mut service = limit.layer(service_fn(async |_: Bytes| Ok::<_, Infallible>(())));
    let mut call = Box::pin(service.ready().await.unwrap().call(FRAME));
    call.as_mut().await.unwrap();
    assert_eq!(limit.active(), 0, "not only when the future is dropped");
}

#[tokio::test]
async fn a_connection_that_leaves_the_queue_holds_up_no_other() {
    let limit = CallLimitLayer::new(1);
    let service = limit.layer(never());
    let (mut has, mut first, mut second) = (service.clone(), service.clone(), service.clone());
    let call = has.ready().await.unwrap().call(FRAME);
    assert!(!is_ready(&mut first));
    let waits = tokio::spawn(async move { second.ready().await.map(drop) });
    settle().await;
    // Granted its place, and gone before it took it.
    drop(call);
    drop(first);
    soon(waits).await.unwrap().unwrap();
    assert_eq!(limit.active(), 0);
    // Gone while it waited.
    let (mut has, mut first, mut second) = (service.clone(), service.clone(), service.clone());
    let call = has.ready().await.unwrap().call(FRAME);
    assert!(!is_ready(&mut first));
    let waits = tokio::spawn(async move { second.ready().await.map(drop) });
    settle().await;
    drop(first);
    settle().await;
    assert!(!waits.is_finished());
    drop(call);
    soon(waits).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_caller_that_was_given_a_place_takes_that_one_and_no_other() {
    let limit = CallLimitLayer::new(2);
    let service = limit.layer(never());
    let (mut one, mut two, mut waits) = (service.clone(), service.clone(), service.clone());
    let calls = (one.ready().await.unwrap().call(FRAME), two.ready().await.unwrap().call(FRAME));
    assert!(!is_ready(&mut waits));
    drop(calls);
    assert_eq!(limit.active(), 1, "it is given one");
    assert!(is_ready(&mut waits));
    assert_eq!(limit.active(), 1);
}

#[tokio::test]
async fn a_clone_has_no_place_of_its_original() {
    let limit = CallLimitLayer::new(1);
    let mut service = limit.layer(never());
    assert!(is_ready(&mut service));
    assert!(!is_ready(&mut service.clone()));
}

#[tokio::test]
async fn with_a_cap_of_zero_no_call_is_made() {
    let mut service = CallLimitLayer::new(0).layer(never());
    assert!(!is_ready(&mut service));
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_refuses_counts_its_calls_and_refuses_at_once_above_the_limit() {
    let layer = CallLimitLayer::new(2).refuse();
    let mut services = [layer.layer(never()), layer.layer(never()), layer.layer(never())];
    assert_eq!((layer.active(), layer.max(), CallLimitLayer::new(7).max()), (0, 2, 7));
    let mut calls = Vec::new();
    for (n, service) in services.iter_mut().enumerate() {
        assert!(is_ready(service), "it does not wait");
        calls.push(service.call(Bytes::new()));
        assert_eq!(layer.active(), (n + 1).min(2));
    }
    let refused = calls.pop().unwrap().await.unwrap_err();
    assert!(refused.is::<CallRefused>(), "{refused}");
    assert_eq!(refused.to_string(), "too many calls are under way");
    drop(calls.pop());
    assert_eq!(layer.active(), 1);
    assert!(is_ready(&mut services[2]));
    let mut again = Box::pin(services[2].call(Bytes::new()));
    assert!(futures::poll!(&mut again).is_pending());
    assert_eq!((layer.active(), layer.max()), (2, 2));
}
