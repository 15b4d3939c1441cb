//! A layer is ready when its service is, and not before: what the service reserves is for the call
//! that follows.

use std::future::{Ready, ready};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ropewalk_middleware::accept_rate::Rate;
use ropewalk_middleware::{
    AcceptRateLayer, AccessLayer, AccessRules, BanLayer, BanRules, BandwidthLayer,
    CallDeadlineLayer, CallLatencyLayer, CallLimitLayer, CatchPanicLayer, Connection,
    ConnectionLimitLayer, FrameLogLayer, FrameRateLayer, KeyLimitLayer, KeyRateLayer,
    LifetimeLayer, LogLayer, LoginLayer, OverloadLayer, PeerLimitLayer, ReadDeadlineLayer,
    StateLayer, TapLayer,
};
use tower::{Layer, Service};

use crate::common::connection;

const SECOND: Duration = Duration::from_secs(1);

/// Is ready when it is let.
#[derive(Clone, Default)]
struct Later(Arc<AtomicBool>);

impl<R> Service<R> for Later {
    type Response = ();
    type Error = io::Error;
    type Future = Ready<io::Result<()>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.0.load(Ordering::Relaxed) { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn call(&mut self, _: R) -> Self::Future {
        ready(Ok(()))
    }
}

/// Is never ready again.
#[derive(Clone)]
struct Broken;

impl<R> Service<R> for Broken {
    type Response = ();
    type Error = io::Error;
    type Future = Ready<io::Result<()>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::Error::other("broken")))
    }

    fn call(&mut self, _: R) -> Self::Future {
        ready(Ok(()))
    }
}

async fn is_ready_with_its_service<L, R>(layer: L, request: R)
where
    L: Layer<Later> + Layer<Broken>,
    <L as Layer<Later>>::Service: Service<R>,
    <L as Layer<Broken>>::Service: Service<R>,
{
    let (later, cx) = (Later::default(), &mut Context::from_waker(Waker::noop()));
    let mut service = layer.layer(later.clone());
    assert!(service.poll_ready(cx).is_pending());
    later.0.store(true, Ordering::Relaxed);
    assert!(matches!(service.poll_ready(cx), Poll::Ready(Ok(()))));
    assert!(service.call(request).await.is_ok());
    assert!(matches!(layer.layer(Broken).poll_ready(cx), Poll::Ready(Err(_))));
}

#[tokio::test]
async fn a_layer_around_connections_is_ready_with_its_service() {
    macro_rules! ready {
        ($($layer:expr),* $(,)?) => { $(is_ready_with_its_service::<_, Connection>($layer, connection().0).await;)* };
    }
    ready!(
        AcceptRateLayer::new().per_peer(Rate::new(1, SECOND)),
        AccessLayer::new(AccessRules::allow_all()),
        ConnectionLimitLayer::new(1),
        ConnectionLimitLayer::new(1).wait(),
        BanLayer::new(BanRules::new(1, SECOND, SECOND)),
        BandwidthLayer::new().read(1),
        KeyLimitLayer::<u8>::new(1),
        LifetimeLayer::new(SECOND),
        LoginLayer::new(),
        LogLayer::new(),
        OverloadLayer::new(),
        PeerLimitLayer::new(1),
        ReadDeadlineLayer::new(),
        StateLayer::new("state"),
        TapLayer::new(),
    );
}

#[tokio::test]
async fn a_layer_around_calls_is_ready_with_its_service() {
    macro_rules! ready {
        ($($layer:expr),* $(,)?) => { $(is_ready_with_its_service::<_, String>($layer, String::new()).await;)* };
    }
    ready!(
        CallDeadlineLayer::new(SECOND),
        CallLatencyLayer::new(),
        CallLimitLayer::new(2),
        CallLimitLayer::new(2).refuse(),
        CatchPanicLayer::new(),
        FrameLogLayer::new(),
        FrameRateLayer::new(1, SECOND),
        KeyRateLayer::new(2, SECOND),
        KeyRateLayer::new(2, SECOND).refuse(),
        StateLayer::new("state"),
    );
}
