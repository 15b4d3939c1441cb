//! The calls with which a layer is checked.

use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::time::timeout;
use tower_service::Service;

use super::probe::{Manner, Probe};

/// How often each kind of call is repeated before the layer has to work as before.
const TIMES: usize = 3;
/// A call that takes longer, by the paused clock, counts as never done.
const LONG: Duration = Duration::from_secs(24 * 3600);

/// A mistake of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayerFault {
    /// It calls a service that it has not made ready, such as a clone of the one that is ready.
    CallsUnready,
    /// After a call, the inner service is ready and not called: an idle connection holds a permit.
    KeepsReady,
    /// It was not woken when the inner service could be made ready.
    LosesWakeUp,
    /// After calls that were answered, no call goes through.
    EndsByAnswers,
    /// After calls that failed, no call goes through: something is not given back.
    LeaksByErrors,
    /// After calls that were dropped half-way, no call goes through: something is not given back.
    LeaksByCancel,
    /// After calls that panicked, no call goes through: something is not given back.
    LeaksByPanics,
    /// A call of the inner service continued after the layer's call was dropped.
    KeepsDroppedCalls,
    /// The calls of one connection changed the answers that another one gets, or kept its calls
    /// waiting.
    SharesState,
}

impl fmt::Display for LayerFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CallsUnready => {
                "it calls a service that it has not made ready: poll_ready and call go to one value, not to a clone"
            }
            Self::KeepsReady => {
                "after a call, the inner service is ready and not called, so an idle connection holds a permit: make \
                 it ready in poll_ready only"
            }
            Self::LosesWakeUp => {
                "it was not woken when the inner service could be made ready: pass the context on to its poll_ready"
            }
            Self::EndsByAnswers => "after calls that were answered, no call goes through any more",
            Self::LeaksByErrors => {
                "after calls that failed, no call goes through any more: release in Drop what a call has taken"
            }
            Self::LeaksByCancel => {
                "after calls that were dropped half-way, no call goes through any more: release in Drop what a call \
                 has taken"
            }
            Self::LeaksByPanics => {
                "after calls that panicked, no call goes through any more: release in Drop what a call has taken"
            }
            Self::KeepsDroppedCalls => {
                "a call of the inner service went on after the layer's call was dropped: own the inner future, in no other task"
            }
            Self::SharesState => {
                "the calls of one connection change the answers of another one, or keep its calls waiting: keep the state \
                 in a field that the Clone resets, or make the layer anew for each connection (layer_with); a layer that \
                 is meant to share says so with shares_state()"
            }
        })
    }
}

/// A check of one layer.
pub(super) struct Check<R> {
    requests: usize,
    request: R,
    faults: Vec<LayerFault>,
}

impl<R> Check<R> {
    pub(super) fn new(requests: usize, request: R) -> Self {
        Self { requests, request, faults: Vec::new() }
    }

    pub(super) fn faults(self) -> Vec<LayerFault> {
        self.faults
    }

    fn found(&mut self, fault: LayerFault) {
        if !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }

    /// Calls that end in each way.
    pub(super) fn calls<S, F, T>(&mut self, new: &impl Fn() -> (S, Probe<F, T>))
    where
        R: Fn(usize) -> F,
        S: Service<F, Response: fmt::Debug, Error: fmt::Debug>,
    {
        let answered = run(self.after(new, Manner::Answer, LayerFault::EndsByAnswers));
        for (manner, fault) in [
            (Manner::Fail, LayerFault::LeaksByErrors),
            (Manner::Hang, LayerFault::LeaksByCancel),
            (Manner::PanicInCall, LayerFault::LeaksByPanics),
            (Manner::PanicInPoll, LayerFault::LeaksByPanics),
        ] {
            let outcome = run(self.after(new, manner, fault));
            if answered.is_some() && outcome.is_some() && outcome != answered {
                self.found(fault);
            }
        }
        run(self.wakes(new));
    }

    /// The outcome of a call after some that ended in this way; `None` when it never ended.
    async fn after<S, F, T>(
        &mut self,
        new: &impl Fn() -> (S, Probe<F, T>),
        manner: Manner,
        fault: LayerFault,
    ) -> Option<String>
    where
        R: Fn(usize) -> F,
        S: Service<F, Response: fmt::Debug, Error: fmt::Debug>,
    {
        let (mut service, probe) = new();
        for n in 0..TIMES {
            probe.set(manner);
            if !is_ready(&mut service).await {
                break;
            }
            let request = (self.request)(n % self.requests);
            spoil(&mut service, request, manner).await;
            if probe.active() > 0 {
                self.found(LayerFault::KeepsDroppedCalls);
            }
            if probe.reserved() > 0 {
                self.found(LayerFault::KeepsReady);
            }
        }
        probe.set(Manner::Answer);
        let outcome = outcome(&mut service, (self.request)(0)).await;
        if probe.unready_calls() > 0 {
            self.found(LayerFault::CallsUnready);
        }
        if outcome.is_none() {
            self.found(fault);
        }
        outcome
    }

    /// Checks a layer whose inner service is not ready at first.
    async fn wakes<S, F, T>(&mut self, new: &impl Fn() -> (S, Probe<F, T>))
    where
        R: Fn(usize) -> F,
        S: Service<F, Response: fmt::Debug, Error: fmt::Debug>,
    {
        let (mut service, probe) = new();
        probe.shut();
        let flag = Arc::new(Flag::default());
        let waker = Waker::from(Arc::clone(&flag));
        let mut call = pin!(outcome(&mut service, (self.request)(0)));
        let mut ended = call.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        probe.open();
        let woken = ended || flag.0.load(Ordering::SeqCst);
        // If it makes progress now, it should have been woken.
        ended = ended || call.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        if probe.unready_calls() > 0 {
            self.found(LayerFault::CallsUnready);
        } else if ended && !woken {
            self.found(LayerFault::LosesWakeUp);
        }
    }

    /// Checks clones, because each connection gets one.
    pub(super) fn clones<S, F, T>(&mut self, new: &impl Fn() -> (S, Probe<F, T>))
    where
        R: Fn(usize) -> F,
        S: Service<F, Response: fmt::Debug, Error: fmt::Debug> + Clone,
    {
        for n in 0..self.requests {
            let alone = run(async { outcome(&mut new().0, (self.request)(n)).await });
            let beside = run(async {
                let (service, probe) = new();
                let mut one = service.clone();
                let mut other = service.clone();
                for n in 0..self.requests {
                    drop(outcome(&mut one, (self.request)(n)).await);
                }
                // Meanwhile a call of the first one is pending.
                probe.set(Manner::Hang);
                let mut pending = Vec::new();
                if is_ready(&mut one).await {
                    let mut call = Box::pin(one.call((self.request)(0)));
                    drop(call.as_mut().poll(&mut Context::from_waker(Waker::noop())));
                    pending.push(call);
                }
                probe.set(Manner::Answer);
                outcome(&mut other, (self.request)(n)).await
            });
            if alone != beside {
                self.found(LayerFault::SharesState);
            }
        }
    }
}

/// Whether a task was woken.
#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Runs the check on a runtime with a paused clock, where timers cost no real time.
fn run<O>(check: impl Future<Output = O>) -> O {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    // Only an I/O driver could fail to start, and it has none.
    runtime.expect("a runtime without I/O can be built").block_on(check)
}

async fn is_ready<S: Service<F>, F>(service: &mut S) -> bool {
    matches!(timeout(LONG, poll_fn(|cx| service.poll_ready(cx))).await, Ok(Ok(())))
}

/// How a call ends; `None` when it does not.
async fn outcome<S, F>(service: &mut S, request: F) -> Option<String>
where
    S: Service<F, Response: fmt::Debug, Error: fmt::Debug>,
{
    let ready = timeout(LONG, poll_fn(|cx| service.poll_ready(cx))).await.ok()?;
    if let Err(error) = ready {
        return Some(format!("not ready: {error:?}"));
    }
    let ended = timeout(LONG, service.call(request)).await.ok()?;
    Some(format!("{ended:?}"))
}

/// Makes a call of a ready service that ends in this way.
async fn spoil<S: Service<F>, F>(service: &mut S, request: F, manner: Manner) {
    let Ok(call) = catch_unwind(AssertUnwindSafe(|| service.call(request))) else { return };
    let mut call = pin!(call);
    if manner == Manner::Hang {
        drop(call.as_mut().poll(&mut Context::from_waker(Waker::noop())));
        return;
    }
    let caught = poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(cx))) {
        Ok(polled) => polled.map(drop),
        Err(_) => Poll::Ready(()),
    });
    drop(timeout(LONG, caught).await);
}
