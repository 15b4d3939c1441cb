//! No layer around frames allocates for a frame.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use ropewalk_middleware::{
    CallDeadlineLayer, CallLatencyLayer, CallLimitLayer, CallTimer, FrameLogLayer, FrameRateLayer,
    KeyRateLayer, StateLayer,
};
use stats_alloc::Region;
use tower::{Layer, Service, ServiceBuilder, service_fn};

use crate::{ALLOCATOR, alone};

const MINUTE: Duration = Duration::from_secs(60);
const FRAMES: usize = 1000;

fn leaf()
-> impl Service<Bytes, Response = Bytes, Error = Infallible, Future = Ready<Result<Bytes, Infallible>>>
+ Clone {
    service_fn(|frame: Bytes| ready(Ok(frame)))
}

/// Answers at the second poll: the first waits.
#[derive(Clone)]
struct Waits;

impl Service<Bytes> for Waits {
    type Response = Bytes;
    type Error = Infallible;
    type Future = Second;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, frame: Bytes) -> Second {
        Second(Some(frame), false)
    }
}

struct Second(Option<Bytes>, bool);

impl Future for Second {
    type Output = Result<Bytes, Infallible>;

    fn poll(mut self: std::pin::Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        if std::mem::replace(&mut self.1, true) {
            return self.0.take().map_or(Poll::Pending, |frame| Poll::Ready(Ok(frame)));
        }
        Poll::Pending
    }
}

/// Allocations of many calls, after the first few.
fn allocations<S: Service<Bytes>>(mut service: S) -> usize {
    let frame = Bytes::from_static(b"frame");
    let mut cx = Context::from_waker(Waker::noop());
    // As `framed` does.
    let _lent = CallTimer::default().lend();
    let mut calls = |n| {
        for _ in 0..n {
            assert!(service.poll_ready(&mut cx).is_ready());
            let mut call = pin!(service.call(frame.clone()));
            while call.as_mut().poll(&mut cx).is_pending() {}
        }
    };
    calls(100);
    // The thread of the test harness may allocate meanwhile. What a layer allocates shows each
    // time.
    let mut measure = || {
        let region = Region::new(ALLOCATOR);
        calls(FRAMES);
        let stats = region.change();
        stats.allocations + stats.reallocations
    };
    (0..5).map(|_| measure()).min().unwrap_or_default()
}

#[track_caller]
fn assert_none<S: Service<Bytes>>(service: S) {
    assert_eq!(allocations(service), 0);
}

#[test]
fn no_frame_layer_allocates_for_a_frame() {
    let _alone = alone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _in_runtime = runtime.enter();
    assert_none(CallDeadlineLayer::new(MINUTE).layer(leaf()));
    assert_none(CallDeadlineLayer::new(MINUTE).layer(Waits));
    assert_none(CallLimitLayer::new(1).layer(leaf()));
    assert_none(CallLimitLayer::new(1).layer(Waits));
    assert_none(CallLatencyLayer::new().layer(leaf()));
    assert_none(CallLatencyLayer::new().every_call().layer(Waits));
    assert_none(FrameRateLayer::new(1 << 30, MINUTE).layer(leaf()));
    assert_none(FrameRateLayer::bytes(1 << 30, MINUTE).layer(leaf()));
    let shared = KeyRateLayer::new(1 << 30, MINUTE);
    assert_none(shared.layer(leaf()));
    assert_none(shared.clone().refuse().layer(leaf()));
    assert_none(shared.answers().layer(leaf()));
    assert_none(FrameLogLayer::new().layer(leaf()));
    assert_none(
        StateLayer::new(7)
            .layer(service_fn(|(_, frame): (i32, Bytes)| ready(Ok::<_, Infallible>(frame)))),
    );
    let all = ServiceBuilder::new()
        .layer(FrameRateLayer::new(1 << 30, MINUTE))
        .layer(CallLimitLayer::new(1))
        .layer(CallDeadlineLayer::new(MINUTE))
        .layer(FrameLogLayer::new())
        .layer(CallLatencyLayer::new());
    assert_none(all.service(leaf()));
    assert_none(all.service(Waits));
    // The count counts.
    assert_eq!(
        allocations(service_fn(|frame: Bytes| Box::pin(ready(Ok::<_, Infallible>(frame))))),
        FRAMES
    );
}
