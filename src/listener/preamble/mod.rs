//! What comes before a connection: the steps (a PROXY header, a TLS handshake) an accepted socket goes through first.

mod counts;
mod log;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ropewalk_middleware::{Addr, Peer, Stream};
use tokio::task::{AbortHandle, JoinError, JoinSet, coop};
use tokio::time::{Sleep, sleep, timeout};

pub use self::counts::PreambleCounts;
pub(crate) use self::counts::Preambles;

use self::counts::End;
use self::log::Log;
use super::{HandOver, Listener};

/// How many preambles of one listener are under way at once, with those that are finished and not yet accepted.
const PENDING: usize = 256;

/// How many connections are taken from the inner listener before others get their turn.
const BATCH: usize = 16;

/// How long after the last call, or the hand-over, preambles may take. A peer that has begun is done long before; one
/// that keeps silent is an idle connection, and a drain closes those.
const LAST: Duration = Duration::from_secs(2);

/// What one step makes of a stream: another stream, and perhaps more about the peer.
pub(crate) type StepFuture = Pin<Box<dyn Future<Output = io::Result<(Stream, Peer)>> + Send>>;

/// One thing that comes before a connection.
pub(crate) trait Step: Send + Sync + 'static {
    /// What it is, for the log: "TLS handshake".
    fn name(&self) -> &'static str;

    /// How long it may take in all, however little a peer sends at a time.
    fn within(&self) -> Duration;

    /// Takes the step. It runs in a task of its own, and may be dropped at any moment, which closes the stream.
    fn run(&self, stream: Stream, peer: Peer) -> StepFuture;
}

/// A listener whose connections go through some steps first. Only those that came through are accepted.
///
/// Each runs in a task of its own, so nothing a peer does, or leaves undone, holds up the others; each step has its
/// deadline, and at most [`PENDING`] are under way. When one more comes, the oldest that is not finished is dropped: a
/// peer that means it needs a few round trips, and is through before so many others come. (Dropping the newest, or
/// leaving it in the backlog, would let 256 silent peers shut out everybody until their deadline.)
///
/// Finished ones wait here until they are accepted, without a deadline: under a server that is at its limit the listener
/// is not asked, so nothing more is taken from the inner one either, and nothing is dropped.
///
/// After the last call it takes what waits in the inner listener, closes that, and goes on until all are through,
/// or [`LAST`] has passed. Handed over, it closes the inner listener at once: what waits there is the new process's.
pub(crate) struct WithPreamble {
    inner: Option<Box<dyn Listener>>,
    local: Addr,
    steps: Arc<[Box<dyn Step>]>,
    running: JoinSet<Result<(Stream, Peer), End>>,
    /// Those that run and whose they are, the oldest first.
    oldest: VecDeque<(AbortHandle, Addr)>,
    /// Taken when there was no place; it begins when the one that is dropped for it is gone.
    next: Option<(Stream, Peer)>,
    /// Runs from the last call.
    last: Option<Pin<Box<Sleep>>>,
    counts: Preambles,
    log: Log,
}

impl WithPreamble {
    /// The steps are taken in this order. What becomes of the preambles is counted in `counts`.
    pub(crate) fn new(inner: Box<dyn Listener>, steps: Vec<Box<dyn Step>>, counts: Preambles) -> Self {
        Self {
            local: inner.local_addr(),
            inner: Some(inner),
            steps: steps.into(),
            running: JoinSet::new(),
            oldest: VecDeque::new(),
            next: None,
            last: None,
            log: Log::new(),
            counts,
        }
    }

    fn pending(&self) -> usize {
        self.running.len() + usize::from(self.next.is_some())
    }

    /// The next connection that came through.
    fn poll_finished(&mut self, cx: &mut Context<'_>) -> Poll<(Stream, Peer)> {
        while let Some(joined) = ready!(self.running.poll_join_next_with_id(cx)) {
            let id = joined.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
            let place = self.oldest.iter().position(|(task, _)| task.id() == id);
            let from = place.and_then(|place| self.oldest.remove(place)).map(|(_, from)| from);
            let end = match joined {
                Ok((_, Ok(connection))) => {
                    self.counts.end(End::Passed);
                    return Poll::Ready(connection);
                }
                Ok((_, Err(end))) => end,
                Err(error) if error.is_panic() => {
                    self.log.panicked(&self.local, from.as_ref());
                    End::Failed
                }
                Err(_) => {
                    self.log.dropped(&self.local, from.as_ref());
                    End::Dropped
                }
            };
            self.counts.end(end);
        }
        // None are left: nobody is to be woken by one.
        Poll::Pending
    }

    /// The next connection that may begin.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<(Stream, Peer)> {
        if self.next.is_none() {
            let Some(inner) = &mut self.inner else { return Poll::Pending };
            let Poll::Ready(connection) = inner.poll_accept(cx) else {
                // Out of tokio's budget for one turn, "none" only means "not now".
                if self.last.is_some() && coop::has_budget_remaining() {
                    // All that had connected is taken: from here on others are refused, or somebody else's.
                    self.inner = None;
                }
                return Poll::Pending;
            };
            self.counts.begin();
            self.next = Some(connection);
        }
        if self.running.len() >= PENDING {
            // Whoever is finished by now stays; its task wakes us all the same.
            if let (Some((oldest, _)), None) = (self.oldest.front(), &self.last) {
                oldest.abort();
            }
            return Poll::Pending;
        }
        self.next.take().map_or(Poll::Pending, Poll::Ready)
    }

    fn begin(&mut self, stream: Stream, peer: Peer) {
        let from = peer.addr().clone();
        let run = prepare(Arc::clone(&self.steps), self.log.clone(), stream, peer);
        self.oldest.push_back((self.running.spawn(run), from));
    }
}

/// Takes the steps.
async fn prepare(
    steps: Arc<[Box<dyn Step>]>,
    log: Log,
    mut stream: Stream,
    mut peer: Peer,
) -> Result<(Stream, Peer), End> {
    let from = peer.addr().clone();
    for step in &*steps {
        let end = match timeout(step.within(), step.run(stream, peer)).await {
            Ok(Ok(connection)) => {
                (stream, peer) = connection;
                continue;
            }
            Ok(Err(error)) => {
                log.failed(&from, step.name(), &error);
                End::Failed
            }
            Err(_) => {
                log.timed_out(&from, step.name());
                End::TimedOut
            }
        };
        return Err(end);
    }
    Ok((stream, peer))
}

impl Listener for WithPreamble {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<(Stream, Peer)> {
        if let Some(last) = &mut self.last
            && last.as_mut().poll(cx).is_ready()
        {
            self.inner = None;
            self.running.abort_all();
            if self.next.take().is_some() {
                self.counts.end(End::Dropped);
            }
        }
        for _ in 0..BATCH {
            if let Poll::Ready(connection) = self.poll_finished(cx) {
                return Poll::Ready(connection);
            }
            let (stream, peer) = ready!(self.poll_next(cx));
            self.begin(stream, peer);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn last_call(&mut self) {
        if let Some(inner) = &mut self.inner {
            inner.last_call();
        }
        self.last.get_or_insert_with(|| Box::pin(sleep(LAST)));
    }

    fn handed_over(&mut self) {
        self.inner = None;
        self.last.get_or_insert_with(|| Box::pin(sleep(LAST)));
    }

    fn has_pending(&self) -> bool {
        self.inner.is_some() || self.pending() > 0
    }

    fn pending(&self) -> usize {
        // Those under way, and those the inner listener holds.
        Self::pending(self) + self.inner.as_ref().map_or(0, |inner| inner.pending())
    }

    fn failure(&mut self) -> Option<io::Error> {
        self.inner.as_mut()?.failure()
    }

    fn local_addr(&self) -> Addr {
        self.local.clone()
    }

    fn hand_over(&self) -> Option<HandOver<'_>> {
        self.inner.as_ref()?.hand_over()
    }

    fn set_owner(&mut self, ours: bool) {
        if let Some(inner) = &mut self.inner {
            inner.set_owner(ours);
        }
    }
}

impl Drop for WithPreamble {
    fn drop(&mut self) {
        // The set aborts its tasks as it goes.
        (0..self.pending()).for_each(|_| self.counts.end(End::Dropped));
    }
}
