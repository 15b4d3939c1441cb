//! Preambles: the steps (a PROXY header, a TLS handshake) that an accepted socket goes through
//! before its connection begins.

mod counts;
mod crowd;
mod fair;
mod limits;
mod log;
mod slots;
#[cfg(test)]
mod tests;
#[cfg(feature = "rustls")]
mod turns;
mod waiting;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ropewalk_middleware::{Addr, Peer, Stream};
use tokio::sync::oneshot;
use tokio::task::{JoinSet, coop};
use tokio::time::{Sleep, sleep, timeout};

pub use self::counts::{PreambleCounts, PreambleDrop};
pub(crate) use self::fair::newest_of_most;
pub(crate) use self::limits::{default_max_preambles, descriptors};
pub(crate) use self::slots::Preambles;
#[cfg(feature = "rustls")]
pub(crate) use self::turns::Turns;
pub(crate) use self::waiting::wake_at;

use self::counts::PreambleEnd;
use self::crowd::PreambleStage;
use self::fair::Fair;
use self::log::PreambleLog;
use self::slots::{Admitted, PreambleSlot};
use self::waiting::Newcomers;
use super::{HandOver, Listener};

/// How many connections are accepted from the inner listener before other tasks get their turns.
const BATCH: usize = 16;

/// How long a peer may be silent after the last call or the hand-over. After that it counts as
/// idle, and a drain closes it. A preamble that has begun has the time of its step, until the
/// drain's deadline.
const LAST: Duration = Duration::from_secs(2);

/// The result of a step: the new stream, and the peer, perhaps with more data.
pub(crate) type StepFuture = Pin<Box<dyn Future<Output = io::Result<(Stream, Peer)>> + Send>>;

/// A step that comes before a connection.
pub(crate) trait Step: Send + Sync + 'static {
    /// Its name for the log, such as "TLS handshake".
    fn name(&self) -> &'static str;

    /// How long it may take in total, however little a peer sends at a time.
    fn within(&self) -> Duration;

    /// How long a peer may be silent before it passes without the step; `None` if it may not.
    fn silence(&self) -> Option<Duration> {
        None
    }

    /// Refuses a peer before the step begins.
    fn check(&self, _peer: &Peer) -> io::Result<()> {
        Ok(())
    }

    /// Runs the step, once there is something to read. It runs in a task of its own, and may be
    /// dropped at any moment, which closes the stream.
    fn run(&self, stream: Stream, peer: Peer) -> StepFuture;
}

/// A listener whose connections go through some steps first. Only those that pass are accepted.
///
/// Each preamble runs in a task of its own, so that no peer can hold up the others; each step has a
/// deadline. All listeners of a server share a number of slots ([`Preambles`]). When all are taken,
/// an existing preamble makes room for a new one by the rules of
/// [`PreambleCrowd::make_room`](crowd::PreambleCrowd::make_room), so that silent peers, and
/// addresses with more than their share, don't keep the others out. The socket of a dropped
/// preamble is closed when its task has had a turn, so a few more than `max` may be open. A
/// connection that has to wait for a slot does so in [`Newcomers`], so that later ones don't wait
/// for it.
///
/// Connections that have passed keep their slots until they are accepted, one address after
/// another, without a deadline: a server at its limit doesn't poll the listener, so no more
/// connections are accepted from the inner one either, and no connection is dropped.
///
/// After the last call it accepts all connections waiting in the inner listener, closes that, and
/// continues until all have passed or failed; those that are silent for [`LAST`] are dropped. When
/// it is handed over, it closes the inner listener at once: the connections waiting there belong to
/// the new process.
pub(crate) struct WithPreamble {
    inner: Option<Box<dyn Listener>>,
    local: Addr,
    steps: Arc<[Box<dyn Step>]>,
    running: JoinSet<Option<PassedPreamble>>,
    passed: Fair<PassedPreamble>,
    /// Connections that were accepted while no slot was free.
    waiting: Newcomers,
    /// Set at the last call: when the next preamble may have been silent for too long.
    last: Option<Pin<Box<Sleep>>>,
    preambles: Preambles,
    log: PreambleLog,
}

/// A connection that has passed, and the slot it still holds.
type PassedPreamble = (PreambleSlot, Stream, Peer);

impl WithPreamble {
    /// The steps run in this order.
    pub(crate) fn new(
        inner: Box<dyn Listener>,
        steps: Vec<Box<dyn Step>>,
        preambles: Preambles,
    ) -> Self {
        Self {
            local: inner.local_addr(),
            inner: Some(inner),
            steps: steps.into(),
            running: JoinSet::new(),
            passed: Fair::new(),
            waiting: Newcomers::new(preambles.max()),
            last: None,
            preambles,
            log: PreambleLog::new(),
        }
    }

    fn pending(&self) -> usize {
        self.running.len() + self.passed.len() + self.waiting.len()
    }

    /// The next connection that has passed.
    fn poll_passed(&mut self, cx: &mut Context<'_>) -> Poll<(Stream, Peer)> {
        // Without tasks this registers no wake-up, and needs none. A panicked task has been logged
        // when its slot was dropped.
        while let Poll::Ready(Some(joined)) = self.running.poll_join_next(cx) {
            if let Ok(Some(passed)) = joined {
                self.passed.push(passed.2.host(), passed);
            }
        }
        while let Some((slot, stream, peer)) = self.passed.pop() {
            if slot.end(PreambleEnd::Passed) {
                return Poll::Ready((stream, peer));
            }
        }
        Poll::Pending
    }

    /// Accepts the next connection, if there is space for one more that waits.
    fn poll_taken(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.waiting.has_space(&self.preambles, &self.log) {
            return Poll::Pending;
        }
        let Some(inner) = &mut self.inner else { return Poll::Pending };
        let Poll::Ready(connection) = inner.poll_accept(cx) else {
            // If tokio's budget for this turn is used up, pending doesn't mean that no connection
            // waits.
            if coop::has_budget_remaining() {
                self.waiting.caught_up();
                if self.last.is_some() && !inner.has_pending() {
                    // All waiting connections are accepted: later ones are refused, or belong to
                    // another process.
                    self.inner = None;
                }
            }
            return Poll::Pending;
        };
        self.preambles.taken();
        self.waiting.push(connection);
        Poll::Ready(())
    }

    /// Begins the preambles of waiting connections for which a slot is free now.
    fn begin(&mut self) {
        while let Some((stream, peer, Admitted { slot, dropped, .. })) =
            self.waiting.enter(&self.preambles, &self.log)
        {
            self.running.spawn(run(Arc::clone(&self.steps), stream, peer, slot, dropped));
        }
    }
}

/// Runs the steps, unless it has to make room meanwhile.
async fn run(
    steps: Arc<[Box<dyn Step>]>,
    stream: Stream,
    peer: Peer,
    slot: PreambleSlot,
    dropped: oneshot::Receiver<PreambleDrop>,
) -> Option<PassedPreamble> {
    let from = peer.addr().clone();
    tokio::select! {
        biased;
        Ok(reason) = dropped => {
            slot.log().dropped(&from, reason);
            None
        }
        prepared = prepare(&steps, stream, peer, &slot) => match prepared {
            Ok((stream, peer)) => slot.set(PreambleStage::Passed, peer.host()).then_some((slot, stream, peer)),
            Err(end) => {
                slot.end(end);
                None
            }
        },
    }
}

/// Runs the steps.
async fn prepare(
    steps: &[Box<dyn Step>],
    mut stream: Stream,
    mut peer: Peer,
    slot: &PreambleSlot,
) -> Result<(Stream, Peer), PreambleEnd> {
    let from = peer.addr().clone();
    for step in steps {
        slot.set(PreambleStage::Silent, peer.host());
        let run = async {
            step.check(&peer)?;
            // A step allocates nothing before there is something to read.
            let readable = poll_fn(|cx| stream.poll_readable(cx));
            match step.silence() {
                None => readable.await,
                Some(time) => {
                    if timeout(time, readable).await.is_err() {
                        return Ok((stream, peer));
                    }
                }
            }
            slot.set(PreambleStage::Spoken, peer.host());
            step.run(stream, peer).await
        };
        let end = match timeout(step.within(), run).await {
            Ok(Ok(connection)) => {
                (stream, peer) = connection;
                continue;
            }
            Ok(Err(error)) => {
                slot.log().failed(&from, step.name(), &error);
                PreambleEnd::Failed
            }
            Err(_) => {
                slot.log().timed_out(&from, step.name());
                PreambleEnd::TimedOut
            }
        };
        return Err(end);
    }
    Ok((stream, peer))
}

impl Listener for WithPreamble {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<(Stream, Peer)> {
        while let Some(last) = &mut self.last
            && last.as_mut().poll(cx).is_ready()
        {
            last.as_mut().reset(self.preambles.end_silent(LAST));
        }
        for _ in 0..BATCH {
            if let Poll::Ready(connection) = self.poll_pending(cx) {
                return Poll::Ready(connection);
            }
            if self.poll_taken(cx).is_pending() {
                return self.waiting.poll_time(cx);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<(Stream, Peer)> {
        // First: a preamble that ends wakes this task, and may have released its slot for one that
        // waits; and the end of one that begins here is watched for below.
        self.begin();
        match self.poll_passed(cx) {
            Poll::Pending => self.waiting.poll_time(cx),
            passed => passed,
        }
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
        // The preambles under way, and the connections that the inner listener holds.
        Self::pending(self) + self.inner.as_ref().map_or(0, |inner| inner.pending())
    }

    fn failure(&mut self) -> Option<io::Error> {
        self.inner.as_mut()?.failure()
    }

    fn lacks_descriptors(&mut self) -> bool {
        self.inner.as_mut().is_some_and(|inner| inner.lacks_descriptors())
    }

    fn accept_errors(&self) -> u64 {
        self.inner.as_ref().map_or(0, |inner| inner.accept_errors())
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
        // The others have slots, which count them when they are dropped.
        (0..self.waiting.len()).for_each(|_| self.preambles.lost(PreambleDrop::Ended));
    }
}
