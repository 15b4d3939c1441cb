//! State reaches the service, at either level.

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use ropewalk_middleware::{Connection, Peer, StateLayer, Stream};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

#[tokio::test]
async fn every_frame_sees_the_same_state() {
    let count = Arc::new(AtomicUsize::new(0));
    let mut service = StateLayer::new(Arc::clone(&count)).layer(service_fn(
        async |(count, n): (Arc<AtomicUsize>, usize)| {
            Ok::<_, Infallible>(count.fetch_add(n, Ordering::Relaxed))
        },
    ));
    for n in 1..=10 {
        service.ready().await.unwrap().call(n).await.unwrap();
    }
    assert_eq!(count.load(Ordering::Relaxed), 55);
}

#[tokio::test]
async fn a_connection_gets_its_state_as_well() {
    let (io, _peer) = tokio::io::duplex(64);
    let connection =
        Connection::accepted(Stream::from_io(io), Peer::new(ropewalk_middleware::Addr::Memory), 3);
    let service =
        StateLayer::new("state").layer(service_fn(async |(state, c): (&str, Connection)| {
            Ok::<_, Infallible>(format!("{state} {}", c.listener()))
        }));
    assert_eq!(service.oneshot(connection).await.unwrap(), "state 3");
}

#[tokio::test]
async fn two_states_nest_the_first_layer_being_the_outermost() {
    let service =
        ServiceBuilder::new().layer(StateLayer::new(1)).layer(StateLayer::new("two")).service(
            service_fn(async |request: (&'static str, (i32, char))| Ok::<_, Infallible>(request)),
        );
    assert_eq!(service.oneshot('c').await.unwrap(), ("two", (1, 'c')));
}

#[tokio::test]
async fn the_state_need_not_be_send() {
    let cell = Rc::new(Cell::new(0));
    let service = StateLayer::new(Rc::clone(&cell)).layer(service_fn(
        async |(cell, n): (Rc<Cell<u8>>, u8)| Ok::<_, Infallible>(cell.replace(n)),
    ));
    service.oneshot(7).await.unwrap();
    assert_eq!(cell.get(), 7);
}

#[test]
fn readiness_is_that_of_the_service_behind() {
    struct Busy;
    impl Service<((), ())> for Busy {
        type Response = ();
        type Error = Infallible;
        type Future = std::future::Ready<Result<(), Infallible>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Pending
        }
        fn call(&mut self, _: ((), ())) -> Self::Future {
            unreachable!("called without being ready")
        }
    }
    let mut service = StateLayer::new(()).layer(Busy);
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert!(Service::<()>::poll_ready(&mut service, &mut cx).is_pending());
}
