//! The service inside a checked layer, which records the layer's calls.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tower_service::Service;

/// How the next calls of a [`Probe`] end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// They are answered at once.
    Answer,
    /// They are pending for ever.
    Hang,
    /// They fail.
    Fail,
    /// Making them panics.
    PanicInCall,
    /// Polling them panics.
    PanicInPoll,
}

/// A service that answers as set, and records each mistake of the layer around it. Its clones share
/// the record.
pub struct Probe<F, R> {
    shared: Arc<ProbeShared<F, R>>,
    /// A permit, if this value was made ready and not called since.
    reserved: Option<Reserved<F, R>>,
}

struct ProbeShared<F, R> {
    answer: Box<dyn Fn(F) -> R + Send + Sync>,
    state: Mutex<ProbeState>,
}

struct ProbeState {
    manner: Manner,
    /// Whether it can be made ready at the moment.
    open: bool,
    waiting: Vec<Waker>,
    reserved: usize,
    active: usize,
    unready_calls: usize,
}

impl<F, R> ProbeShared<F, R> {
    fn lock(&self) -> MutexGuard<'_, ProbeState> {
        // Only numbers change under it, so they are consistent even after a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A permit that a ready service holds for its next call.
struct Reserved<F, R>(Arc<ProbeShared<F, R>>);

impl<F, R> Drop for Reserved<F, R> {
    fn drop(&mut self) {
        self.0.lock().reserved -= 1;
    }
}

/// A permit that a call holds.
struct Active<F, R>(Arc<ProbeShared<F, R>>);

impl<F, R> Drop for Active<F, R> {
    fn drop(&mut self) {
        self.0.lock().active -= 1;
    }
}

impl<F, R> Probe<F, R> {
    pub(super) fn new(answer: impl Fn(F) -> R + Send + Sync + 'static) -> Self {
        let state = ProbeState {
            manner: Manner::Answer,
            open: true,
            waiting: Vec::new(),
            reserved: 0,
            active: 0,
            unready_calls: 0,
        };
        Self {
            shared: Arc::new(ProbeShared { answer: Box::new(answer), state: Mutex::new(state) }),
            reserved: None,
        }
    }

    pub(super) fn set(&self, manner: Manner) {
        self.shared.lock().manner = manner;
    }

    /// From here on it can't be made ready, until it is opened.
    pub(super) fn shut(&self) {
        self.shared.lock().open = false;
    }

    pub(super) fn open(&self) {
        let mut state = self.shared.lock();
        state.open = true;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// How many values are ready and were not called since.
    pub(super) fn reserved(&self) -> usize {
        self.shared.lock().reserved
    }

    /// How many calls are under way.
    pub(super) fn active(&self) -> usize {
        self.shared.lock().active
    }

    /// How many calls were made of a value that wasn't ready.
    pub(super) fn unready_calls(&self) -> usize {
        self.shared.lock().unready_calls
    }
}

impl<F, R> Clone for Probe<F, R> {
    /// Readiness is not cloned.
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), reserved: None }
    }
}

impl<F, R> Service<F> for Probe<F, R> {
    type Response = R;
    type Error = ProbeError;
    type Future = ProbeFuture<F, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ProbeError>> {
        if self.reserved.is_some() {
            return Poll::Ready(Ok(()));
        }
        let mut state = self.shared.lock();
        if !state.open {
            state.waiting.push(cx.waker().clone());
            return Poll::Pending;
        }
        state.reserved += 1;
        drop(state);
        self.reserved = Some(Reserved(Arc::clone(&self.shared)));
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: F) -> Self::Future {
        let mut state = self.shared.lock();
        state.unready_calls += usize::from(self.reserved.is_none());
        state.active += 1;
        let manner = state.manner;
        drop(state);
        self.reserved = None;
        let active = Active(Arc::clone(&self.shared));
        assert!(manner != Manner::PanicInCall, "{PANIC}");
        ProbeFuture { request: Some(request), manner, active: Some(active) }
    }
}

/// The text of the panics that a check causes on purpose.
pub(super) const PANIC: &str = "a panic on purpose, in a check of a layer";

impl<F, R> fmt::Debug for Probe<F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe").field("is_ready", &self.reserved.is_some()).finish_non_exhaustive()
    }
}

/// A call of a [`Probe`].
#[must_use = "futures do nothing unless polled"]
pub struct ProbeFuture<F, R> {
    request: Option<F>,
    manner: Manner,
    active: Option<Active<F, R>>,
}

// No field is pinned.
impl<F, R> Unpin for ProbeFuture<F, R> {}

impl<F, R> Future for ProbeFuture<F, R> {
    type Output = Result<R, ProbeError>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        assert!(self.manner != Manner::PanicInPoll, "{PANIC}");
        if self.manner == Manner::Hang {
            return Poll::Pending;
        }
        let (Some(active), Some(request)) = (self.active.take(), self.request.take()) else {
            return Poll::Pending;
        };
        Poll::Ready(if self.manner == Manner::Fail {
            Err(ProbeError(()))
        } else {
            Ok((active.0.answer)(request))
        })
    }
}

impl<F, R> fmt::Debug for ProbeFuture<F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProbeFuture").field("manner", &self.manner).finish_non_exhaustive()
    }
}

/// The error of a [`Probe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeError(());

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an error on purpose, in a check of a layer")
    }
}

impl std::error::Error for ProbeError {}
