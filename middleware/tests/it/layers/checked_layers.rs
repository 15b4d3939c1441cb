//! The checks for layers: our own layers pass them, and each fault that they promise to find is
//! found.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use ropewalk_middleware::testing::{
    LayerFault, Probe, check_connection_layer, check_layer, connection_layer_faults,
};
use ropewalk_middleware::{
    AcceptRateLayer, AccessLayer, BanLayer, BanRules, BandwidthLayer, CallDeadlineLayer,
    CallLatencyLayer, CallLimitLayer, CatchPanicLayer, Connection, ConnectionLimitLayer,
    FrameLogLayer, FrameRateLayer, KeyLimitLayer, KeyRateLayer, LifetimeLayer, LogLayer,
    LoginLayer, OverloadLayer, PeerLimitLayer, PerConnectionLayer, ReadDeadlineLayer, TapLayer,
};
use tower::Service;
use tower::layer::layer_fn;

const HOUR: Duration = Duration::from_secs(3600);

fn frames() -> [Bytes; 2] {
    ["login", "get"].map(Bytes::from)
}

#[test]
fn our_layers_around_frames_pass() {
    check_layer(|| CallDeadlineLayer::new(HOUR), frames()).run();
    check_layer(CallLatencyLayer::new, frames()).shares_state().run();
    check_layer(|| CallLimitLayer::new(1), frames()).shares_state().run();
    check_layer(|| CallLimitLayer::new(1).refuse(), frames()).shares_state().run();
    check_layer(CatchPanicLayer::new, frames()).run();
    check_layer(FrameLogLayer::new, frames()).run();
    check_layer(FrameLogLayer::debug, frames()).run();
    check_layer(|| FrameRateLayer::new(10, HOUR), frames()).run();
    check_layer(|| KeyRateLayer::new(100, HOUR), frames()).shares_state().run();
    check_layer(|| KeyRateLayer::new(100, HOUR).refuse(), frames()).shares_state().run();
    check_layer(|| KeyRateLayer::new(100, HOUR).answers(), frames()).shares_state().run();
}

#[test]
fn our_layers_around_connections_pass() {
    check_connection_layer(|| ConnectionLimitLayer::new(1));
    check_connection_layer(|| ConnectionLimitLayer::new(1).refuse_with("full"));
    check_connection_layer(|| PeerLimitLayer::new(1));
    check_connection_layer(|| AccessLayer::new("allow all".parse().unwrap()));
    check_connection_layer(AcceptRateLayer::new);
    check_connection_layer(|| BanLayer::new(BanRules::new(1, HOUR, HOUR)));
    check_connection_layer(|| KeyLimitLayer::by(1, |connection| Some(connection.listener())));
    check_connection_layer(|| LifetimeLayer::new(HOUR));
    check_connection_layer(|| BandwidthLayer::new().read(1 << 20).write_of_all(1 << 20));
    check_connection_layer(|| LoginLayer::new().at_most(1));
    check_connection_layer(OverloadLayer::new);
    check_connection_layer(TapLayer::new);
    check_connection_layer(ReadDeadlineLayer::new);
    check_connection_layer(LogLayer::new);
    check_connection_layer(|| PerConnectionLayer::new(|_: &_| LogLayer::new()));
}

type Boxed<T> = Pin<Box<dyn Future<Output = T>>>;

/// A layer with a fault.
#[derive(Clone)]
struct Faulty<S> {
    inner: S,
    kind: Kind,
    /// Shared by all clones.
    taken: Arc<AtomicUsize>,
    logged_in: Arc<AtomicBool>,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    CallsAClone,
    IgnoresReadiness,
    ReadiesInAdvance,
    PollsWithAnotherWaker,
    GivesBackAtTheEndOnly,
    GivesBackUnlessItFails,
    StopsAfterTwo,
    SpawnsCalls,
    SharesALogin,
    SharesASlot,
}

fn faulty(
    kind: Kind,
) -> impl Fn() -> tower::layer::LayerFn<Box<dyn Fn(FrameProbe) -> Faulty<FrameProbe>>> {
    move || {
        let (taken, logged_in) = (Arc::default(), Arc::default());
        layer_fn(Box::new(move |inner| {
            let (taken, logged_in) = (Arc::clone(&taken), Arc::clone(&logged_in));
            Faulty { inner, kind, taken, logged_in }
        }))
    }
}

type FrameProbe = Probe<Bytes, Bytes>;

impl Service<Bytes> for Faulty<FrameProbe> {
    type Response = Bytes;
    type Error = String;
    type Future = Boxed<Result<Bytes, String>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), String>> {
        let limit = if self.kind == Kind::StopsAfterTwo { 2 } else { 1 };
        let counts = [
            Kind::GivesBackAtTheEndOnly,
            Kind::GivesBackUnlessItFails,
            Kind::StopsAfterTwo,
            Kind::SharesASlot,
        ];
        if counts.contains(&self.kind) && self.taken.load(Ordering::SeqCst) >= limit {
            return Poll::Pending;
        }
        match self.kind {
            Kind::IgnoresReadiness => Poll::Ready(Ok(())),
            Kind::PollsWithAnotherWaker => self
                .inner
                .poll_ready(&mut Context::from_waker(Waker::noop()))
                .map_err(|e| e.to_string()),
            _ => self.inner.poll_ready(cx).map_err(|e| e.to_string()),
        }
    }

    fn call(&mut self, frame: Bytes) -> Self::Future {
        let (kind, taken) = (self.kind, Arc::clone(&self.taken));
        let logged_in = Arc::clone(&self.logged_in);
        match kind {
            Kind::SharesALogin => {
                if frame == "login" {
                    logged_in.store(true, Ordering::SeqCst);
                } else if !logged_in.load(Ordering::SeqCst) {
                    return Box::pin(async { Err("log in first".to_owned()) });
                }
            }
            Kind::SharesASlot => {
                /// Gives back in every case.
                struct Slot(Arc<AtomicUsize>);
                impl Drop for Slot {
                    fn drop(&mut self) {
                        self.0.fetch_sub(1, Ordering::SeqCst);
                    }
                }
                taken.fetch_add(1, Ordering::SeqCst);
                let slot = Slot(taken);
                let call = self.inner.call(frame);
                return Box::pin(async move {
                    let _slot = slot;
                    call.await.map_err(|e| e.to_string())
                });
            }
            _ => {}
        }
        if kind == Kind::SpawnsCalls {
            let call = self.inner.call(frame);
            let task = tokio::spawn(call);
            return Box::pin(async move {
                task.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
            });
        }
        taken.fetch_add(1, Ordering::SeqCst);
        let call = if kind == Kind::CallsAClone {
            self.inner.clone().call(frame)
        } else {
            self.inner.call(frame)
        };
        if kind == Kind::ReadiesInAdvance {
            let _ = self.inner.poll_ready(&mut Context::from_waker(Waker::noop()));
        }
        Box::pin(async move {
            let answer = call.await.map_err(|e| e.to_string());
            match kind {
                Kind::GivesBackUnlessItFails if answer.is_err() => {}
                Kind::StopsAfterTwo => {}
                _ => drop(taken.fetch_sub(1, Ordering::SeqCst)),
            }
            answer
        })
    }
}

fn faults(kind: Kind) -> Vec<LayerFault> {
    check_layer(faulty(kind), frames()).faults()
}

#[test]
fn a_call_of_a_clone_is_found() {
    assert!(faults(Kind::CallsAClone).contains(&LayerFault::CallsUnready));
}

#[test]
fn readiness_that_is_not_asked_for_is_found() {
    assert_eq!(faults(Kind::IgnoresReadiness), [LayerFault::CallsUnready]);
}

#[test]
fn a_permit_that_an_idle_connection_holds_is_found() {
    assert_eq!(faults(Kind::ReadiesInAdvance), [LayerFault::KeepsReady]);
}

#[test]
fn a_lost_wake_up_is_found() {
    assert_eq!(faults(Kind::PollsWithAnotherWaker), [LayerFault::LosesWakeUp]);
}

#[test]
fn a_permit_kept_by_a_dropped_or_panicking_call_is_found() {
    let faults = check_layer(faulty(Kind::GivesBackAtTheEndOnly), frames()).shares_state().faults();
    assert_eq!(faults, [LayerFault::LeaksByCancel, LayerFault::LeaksByPanics]);
}

#[test]
fn a_permit_kept_by_a_failed_call_is_found() {
    let faults =
        check_layer(faulty(Kind::GivesBackUnlessItFails), frames()).shares_state().faults();
    assert!(faults.contains(&LayerFault::LeaksByErrors), "{faults:?}");
}

#[test]
fn a_layer_that_stops_by_itself_is_found() {
    let faults = check_layer(faulty(Kind::StopsAfterTwo), frames()).shares_state().faults();
    assert!(faults.contains(&LayerFault::EndsByAnswers), "{faults:?}");
}

#[test]
fn a_call_that_outlives_its_connection_is_found() {
    assert_eq!(faults(Kind::SpawnsCalls), [LayerFault::KeepsDroppedCalls]);
}

/// The layer that accepted everybody after one login.
#[test]
fn a_login_that_all_connections_share_is_found() {
    assert_eq!(faults(Kind::SharesALogin), [LayerFault::SharesState]);
}

#[test]
fn a_slot_that_all_connections_share_is_found_unless_it_is_declared() {
    assert_eq!(faults(Kind::SharesASlot), [LayerFault::SharesState]);
    assert_eq!(check_layer(faulty(Kind::SharesASlot), frames()).shares_state().faults(), []);
}

/// Takes a place when it is called, and gives it back at the end only.
struct Careless<S> {
    inner: S,
    taken: Arc<AtomicUsize>,
}

impl<S: Service<Connection, Response = (), Future: 'static>> Service<Connection> for Careless<S> {
    type Response = ();
    type Error = S::Error;
    type Future = Boxed<Result<(), S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        if self.taken.load(Ordering::SeqCst) > 0 {
            Poll::Pending
        } else {
            self.inner.poll_ready(cx)
        }
    }

    fn call(&mut self, connection: Connection) -> Self::Future {
        let taken = Arc::clone(&self.taken);
        taken.fetch_add(1, Ordering::SeqCst);
        let served = self.inner.call(connection);
        Box::pin(async move {
            let served = served.await;
            taken.fetch_sub(1, Ordering::SeqCst);
            served
        })
    }
}

#[test]
fn a_fault_of_a_layer_around_connections_is_found() {
    let careless = || layer_fn(|inner| Careless { inner, taken: Arc::default() });
    assert_eq!(
        connection_layer_faults(careless),
        [LayerFault::LeaksByCancel, LayerFault::LeaksByPanics]
    );
    assert_eq!(connection_layer_faults(tower::layer::util::Identity::new), []);
}

#[test]
#[should_panic(expected = "release in Drop what a call has taken")]
fn the_panic_of_a_check_names_the_fix() {
    check_layer(faulty(Kind::GivesBackAtTheEndOnly), frames()).run();
}
