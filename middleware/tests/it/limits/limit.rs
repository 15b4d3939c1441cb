//! The cap on connections is exact, and every place comes back.

use std::future::{Future, pending, poll_fn};
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use ropewalk_middleware::{CloseReason, Connection, ConnectionLimitLayer, MakeRoom};
use tokio::io::AsyncReadExt;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, yield_now};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::common::{Hold, connection, connection_on, settle};

fn is_ready<S: Service<Connection>>(service: &mut S) -> bool {
    service.poll_ready(&mut Context::from_waker(Waker::noop())).is_ready()
}

/// Polls a future once, and says whether it is done.
async fn is_done<F: Future + Unpin>(future: &mut F) -> bool {
    poll_fn(|cx| Poll::Ready(std::pin::Pin::new(&mut *future).poll(cx).is_ready())).await
}

#[tokio::test(start_paused = true)]
async fn refuses_the_101st_connection_with_the_text() {
    let hold = Hold::default();
    let layer = ConnectionLimitLayer::new(100).refuse_with("full\r\n");
    let mut service = layer.layer(hold.clone());
    let mut peers = Vec::new();
    for _ in 0..100 {
        let (ours, theirs) = connection();
        tokio::spawn(service.ready().await.unwrap().call(ours));
        peers.push(theirs);
    }
    settle().await;
    assert_eq!((hold.now(), layer.active(), layer.available()), (100, 100, 0));

    let (ours, mut theirs) = connection();
    let closing = ours.closing();
    let refusal = tokio::spawn(service.ready().await.unwrap().call(ours));
    let mut text = String::new();
    theirs.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "full\r\n");
    assert_eq!(closing.reason(), Some(CloseReason::Refused));
    drop(theirs);
    refusal.await.unwrap().unwrap();
    assert_eq!((hold.most(), layer.active()), (100, 100));
}

#[tokio::test(start_paused = true)]
async fn a_place_given_back_after_readiness_was_asked_is_used() {
    let hold = Hold::default();
    let layer = ConnectionLimitLayer::new(1).refuse_with("full");
    let mut service = layer.layer(hold.clone());

    let (ours, first) = connection();
    let served = tokio::spawn(service.ready().await.unwrap().call(ours));
    let (ours, mut second) = connection();
    tokio::spawn(service.ready().await.unwrap().call(ours));
    assert_eq!(second.read_u8().await.unwrap(), b'f');

    // The accept loop asks at the cap, and waits for a connection.
    service.ready().await.unwrap();
    drop(first);
    served.await.unwrap().unwrap();
    let (ours, _third) = connection();
    let closing = ours.closing();
    tokio::spawn(service.call(ours));
    settle().await;
    assert_eq!((hold.ever(), hold.now(), closing.reason()), (2, 1, None));
}

#[tokio::test]
async fn refusals_go_on_while_the_service_behind_is_busy() {
    /// Ready while it is told so; a call without readiness is a failure.
    #[derive(Clone)]
    struct Gate(Arc<Semaphore>, bool);
    impl Service<Connection> for Gate {
        type Response = ();
        type Error = io::Error;
        type Future = std::future::Pending<io::Result<()>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.1 = self.0.available_permits() > 0;
            if self.1 { Poll::Ready(Ok(())) } else { Poll::Pending }
        }
        fn call(&mut self, _: Connection) -> Self::Future {
            assert!(std::mem::take(&mut self.1), "called without being ready");
            pending()
        }
    }
    let open = Arc::new(Semaphore::new(1));
    let layer = ConnectionLimitLayer::new(1).refuse_with("full");
    let mut service = layer.layer(Gate(Arc::clone(&open), false));
    let call = |service: &mut _| {
        let (ours, _theirs) = connection();
        let closing = ours.closing();
        (Service::call(service, ours), closing)
    };
    assert!(is_ready(&mut service));
    let (first, _) = call(&mut service);

    let gate = open.try_acquire().unwrap();
    assert!(is_ready(&mut service), "at the cap a refusal needs nobody");
    assert_eq!(call(&mut service).1.reason(), Some(CloseReason::Refused));

    // Room, but the service is busy: refused if the accept loop had been told to go on, else it
    // waits.
    assert!(is_ready(&mut service));
    drop(first);
    assert_eq!(call(&mut service).1.reason(), Some(CloseReason::Refused));
    assert!(!is_ready(&mut service));

    // Room again by the time the connection comes, and the service behind is ready by then.
    let keep = layer.layer(Gate(Arc::new(Semaphore::new(1)), false)).call(connection().0);
    assert!(is_ready(&mut service));
    drop((keep, gate));
    assert_eq!(call(&mut service).1.reason(), None);
}

#[tokio::test]
async fn waiting_is_not_being_ready_and_the_next_to_leave_ends_it() {
    let hold = Hold::default();
    let layer = ConnectionLimitLayer::new(1);
    let mut service = layer.layer(hold.clone());
    let (ours, first) = connection();
    let served = tokio::spawn(service.ready().await.unwrap().call(ours));
    settle().await;

    let mut ready = ready_in_a_task(service);
    assert!(!is_done(&mut ready).await);
    drop(first);
    served.await.unwrap().unwrap();
    let mut service = ready.await.unwrap();
    let (ours, _second) = connection();
    tokio::spawn(service.call(ours));
    settle().await;
    assert_eq!((hold.ever(), hold.most(), layer.active()), (2, 1, 1));
}

/// Readies a service in a task of its own, so that a lost wake-up shows.
fn ready_in_a_task<S>(mut service: S) -> tokio::task::JoinHandle<S>
where
    S: Service<Connection, Error = io::Error> + Send + 'static,
{
    tokio::spawn(async move {
        poll_fn(|cx| service.poll_ready(cx)).await.unwrap();
        service
    })
}

#[tokio::test]
async fn a_place_reserved_for_the_next_call_counts_and_comes_back_with_the_service() {
    let layer = ConnectionLimitLayer::new(1).wait();
    let (mut one, mut other) = (layer.layer(Hold::default()), layer.layer(Hold::default()));
    assert!(is_ready(&mut one) && is_ready(&mut one));
    assert!(!is_ready(&mut other) && !is_ready(&mut one.clone()));
    assert_eq!((layer.active(), layer.max()), (1, 1));
    drop(one);
    assert!(is_ready(&mut other));
    drop(other);
    assert_eq!(layer.active(), 0);
}

/// How the connections of a storm end.
async fn storm_inside(n: usize, hold: Hold) -> io::Result<()> {
    let _inside = hold.enter();
    for _ in 0..n % 7 {
        yield_now().await;
    }
    match n % 4 {
        0 => Ok(()),
        1 => Err(io::Error::other("ended by an error")),
        2 => std::panic::resume_unwind(Box::new("ended by a panic")),
        _ => pending().await,
    }
}

/// Sends 1000 connections through services of one layer, each in a task; those that do not end are
/// aborted.
async fn storm<P>(layer: ConnectionLimitLayer<P>) -> Hold
where
    P: Clone + Send + 'static + ropewalk_middleware::limit::Overflow<io::Error, Refusal: Send>,
{
    let hold = Hold::default();
    let mut tasks = JoinSet::new();
    for n in 0..1000 {
        let (layer, hold) = (layer.clone(), hold.clone());
        tasks.spawn(async move {
            let mut service =
                layer.layer(service_fn(move |_: Connection| storm_inside(n, hold.clone())));
            let call = service.ready().await?.call(connection().0);
            // Some are cancelled by a deadline of another layer.
            let cancel = async {
                for _ in 0..50 {
                    yield_now().await;
                }
            };
            tokio::select! { done = call => done, () = cancel => Ok(()) }
        });
    }
    while tasks.join_next().await.is_some() {}
    hold
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_storm_of_1000_the_cap_is_never_exceeded_and_all_waiting_connections_are_served() {
    let layer = ConnectionLimitLayer::new(10);
    let hold = storm(layer.clone()).await;
    assert_eq!((hold.ever(), hold.now()), (1000, 0));
    assert_eq!((hold.most(), layer.active(), layer.available()), (10, 0, 10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_storm_of_refusals_every_place_comes_back() {
    let layer = ConnectionLimitLayer::new(10).refuse_with("full");
    let hold = storm(layer.clone()).await;
    assert!((1..=10).contains(&hold.most()) && hold.ever() >= 10, "{hold:?}");
    assert_eq!((hold.now(), layer.active(), layer.available()), (0, 0, 10));
}

#[tokio::test]
async fn a_place_comes_back_after_an_error_a_panic_and_a_cancellation() {
    let layer = ConnectionLimitLayer::new(1).refuse_with("full");
    for n in [0, 1, 2, 3] {
        let mut service =
            layer.layer(service_fn(move |_: Connection| storm_inside(n, Hold::default())));
        let task = tokio::spawn(service.ready().await.unwrap().call(connection().0));
        settle().await;
        task.abort();
        drop(task.await);
        assert_eq!(layer.active(), 0, "after ending number {n}");
    }
}

#[test]
fn services_and_their_futures_move_between_threads() {
    fn moves<S: Service<Connection, Future: Send> + Send + Sync + Clone>(_: S) {}
    let layer = ConnectionLimitLayer::new(1);
    moves(layer.layer(Hold::default()));
    moves(layer.clone().refuse_with("full").layer(Hold::default()));
    moves(layer.clone().refuse_with("full").per_listener().layer(Hold::default()));
    moves(layer.refuse_by(Hold::default()).layer(Hold::default()));
}

#[tokio::test]
async fn a_panic_in_the_call_itself_gives_the_place_back() {
    let layer = ConnectionLimitLayer::new(1);
    let mut service =
        layer.layer(service_fn(|_: Connection| -> std::future::Ready<io::Result<()>> {
            std::panic::resume_unwind(Box::new("in call"))
        }));
    let task =
        tokio::spawn(async move { service.ready().await.unwrap().call(connection().0).await });
    assert!(task.await.unwrap_err().is_panic());
    assert_eq!(layer.active(), 0);
}

#[tokio::test]
async fn the_place_is_free_when_the_future_is_done_and_not_only_when_it_is_dropped() {
    let layer = ConnectionLimitLayer::new(1);
    let mut service = layer.layer(service_fn(async |_: Connection| Ok::<_, io::Error>(())));
    let mut call = Box::pin(service.ready().await.unwrap().call(connection().0));
    assert_eq!(layer.active(), 1);
    call.as_mut().await.unwrap();
    assert_eq!(layer.active(), 0);
}

#[tokio::test(start_paused = true)]
async fn listeners_counted_by_themselves_do_not_refuse_for_each_other() {
    let hold = Hold::default();
    let layer = ConnectionLimitLayer::new(2).refuse_with("full").per_listener();
    let mut service = layer.layer(hold.clone());
    let mut peers = Vec::new();
    let mut refused = [0; 3];
    for n in 0..12 {
        let (ours, theirs) = connection_on(n % 3, 64);
        let closing = ours.closing();
        tokio::spawn(service.ready().await.unwrap().call(ours));
        refused[n % 3] += usize::from(closing.reason() == Some(CloseReason::Refused));
        peers.push(theirs);
    }
    assert_eq!(refused, [2, 2, 2]);
    settle().await;
    assert_eq!((hold.now(), layer.active(), layer.available()), (6, 6, 0));
}

#[tokio::test]
async fn a_limit_that_waits_after_all_counts_all_listeners_together() {
    let layer = ConnectionLimitLayer::new(1).refuse_with("full").per_listener().wait();
    let mut service = layer.layer(Hold::default());
    let held = service.ready().await.unwrap().call(connection_on(0, 64).0);
    assert!(!is_ready(&mut service) && layer.available() == 0);
    drop(held);
    assert!(is_ready(&mut service));
}

#[tokio::test]
async fn a_limit_that_waits_after_all_keeps_its_slots_unless_connections_made_room() {
    let layer = ConnectionLimitLayer::new(1).refuse_with("full");
    let mut waiting = layer.clone().wait().layer(Hold::default());
    assert!(is_ready(&mut waiting));
    assert_eq!((layer.active(), layer.available()), (1, 0));

    let layer = layer.make_room(MakeRoom::new());
    let mut waiting = layer.clone().wait().layer(Hold::default());
    assert!(is_ready(&mut waiting));
    assert_eq!((layer.active(), layer.available()), (0, 1), "these are slots of its own");
}
