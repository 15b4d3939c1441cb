//! What comes before a connection: the steps (a PROXY header, a TLS handshake) an accepted socket goes through first.

mod counts;
mod crowd;
mod fair;
mod limits;
mod log;
mod places;
#[cfg(test)]
mod tests;
#[cfg(feature = "tls")]
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
pub(crate) use self::places::Preambles;
#[cfg(feature = "tls")]
pub(crate) use self::turns::Turns;

use self::counts::End;
use self::crowd::Stage;
use self::fair::Fair;
use self::log::Log;
use self::places::{Entered, Place};
use self::waiting::Waiting;
use super::{HandOver, Listener};

/// How many connections are taken from the inner listener before others get their turn.
const BATCH: usize = 16;

/// How long a peer may be silent after the last call, or the hand-over. Then it is an idle connection, and a drain closes those.
/// One that has begun has the time of its step, to the drain's deadline.
const LAST: Duration = Duration::from_secs(2);

/// What one step makes of a stream: another stream, and perhaps more about the peer.
pub(crate) type StepFuture = Pin<Box<dyn Future<Output = io::Result<(Stream, Peer)>> + Send>>;

/// One thing that comes before a connection.
pub(crate) trait Step: Send + Sync + 'static {
    /// What it is, for the log: "TLS handshake".
    fn name(&self) -> &'static str;

    /// How long it may take in all, however little a peer sends at a time.
    fn within(&self) -> Duration;

    /// Refuses a peer that need not be waited for.
    fn check(&self, _peer: &Peer) -> io::Result<()> {
        Ok(())
    }

    /// Takes the step, once there is something to read. It runs in a task of its own, and may be dropped at any moment, which closes the stream.
    fn run(&self, stream: Stream, peer: Peer) -> StepFuture;
}

/// A listener whose connections go through some steps first. Only those that came through are accepted.
///
/// Each runs in a task of its own, so nothing a peer does, or leaves undone, holds up the others; each step has its
/// deadline. All listeners of a server share so many places ([`Preambles`]). When one more comes, another one makes room
/// by the rules of [`Crowd::make_room`](crowd::Crowd::make_room): silent peers, and addresses that take more than their
/// share, do not keep the others out. Its socket is closed when its task has had a turn; a batch may be open by so much. One
/// that has to wait for a place does so in [`Waiting`], so that those behind it do not.
///
/// Those that have passed keep their places until they are accepted, one address after another, without a deadline: under a
/// server that is at its limit the listener is not asked, so nothing more is taken from the inner one either, and nothing
/// is dropped.
///
/// After the last call it takes what waits in the inner listener, closes that, and goes on until all are through or have
/// failed; those that are silent for [`LAST`] are dropped. Handed over, it closes the inner listener at once: what waits there
/// is the new process's.
pub(crate) struct WithPreamble {
    inner: Option<Box<dyn Listener>>,
    local: Addr,
    steps: Arc<[Box<dyn Step>]>,
    running: JoinSet<Option<Passed>>,
    passed: Fair<Passed>,
    /// Taken when there was no place.
    waiting: Waiting,
    /// From the last call on: when one may have been silent for too long.
    last: Option<Pin<Box<Sleep>>>,
    preambles: Preambles,
    log: Log,
}

/// A connection that came through, and the place it still has.
type Passed = (Place, Stream, Peer);

impl WithPreamble {
    /// The steps are taken in this order.
    pub(crate) fn new(inner: Box<dyn Listener>, steps: Vec<Box<dyn Step>>, preambles: Preambles) -> Self {
        Self {
            local: inner.local_addr(),
            inner: Some(inner),
            steps: steps.into(),
            running: JoinSet::new(),
            passed: Fair::new(),
            waiting: Waiting::new(preambles.max()),
            last: None,
            preambles,
            log: Log::new(),
        }
    }

    fn pending(&self) -> usize {
        self.running.len() + self.passed.len() + self.waiting.len()
    }

    /// The next connection that came through.
    fn poll_passed(&mut self, cx: &mut Context<'_>) -> Poll<(Stream, Peer)> {
        // When none is left nothing wakes us for one. A task that panicked has said so itself, as its place went.
        while let Poll::Ready(Some(joined)) = self.running.poll_join_next(cx) {
            if let Ok(Some(passed)) = joined {
                self.passed.push(passed.2.host(), passed);
            }
        }
        while let Some((place, stream, peer)) = self.passed.pop() {
            if place.end(End::Passed) {
                return Poll::Ready((stream, peer));
            }
        }
        Poll::Pending
    }

    /// Takes the next connection, if there is space for one more that waits.
    fn poll_taken(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.waiting.has_space(&self.preambles, &self.log) {
            return Poll::Pending;
        }
        let Some(inner) = &mut self.inner else { return Poll::Pending };
        let Poll::Ready(connection) = inner.poll_accept(cx) else {
            // Out of tokio's budget for one turn, "none" only means "not now".
            if coop::has_budget_remaining() {
                self.waiting.caught_up();
                if self.last.is_some() && !inner.has_pending() {
                    // All that had connected is taken: from here on others are refused, or somebody else's.
                    self.inner = None;
                }
            }
            return Poll::Pending;
        };
        self.preambles.taken();
        self.waiting.push(connection);
        Poll::Ready(())
    }

    /// Begins with those that wait and have a place by now.
    fn begin(&mut self) {
        while let Some((stream, peer, Entered { place, dropped, .. })) = self.waiting.enter(&self.preambles, &self.log)
        {
            self.running.spawn(run(Arc::clone(&self.steps), stream, peer, place, dropped));
        }
    }
}

/// Takes the steps, unless it is told to make room meanwhile.
async fn run(
    steps: Arc<[Box<dyn Step>]>,
    stream: Stream,
    peer: Peer,
    place: Place,
    dropped: oneshot::Receiver<PreambleDrop>,
) -> Option<Passed> {
    let from = peer.addr().clone();
    tokio::select! {
        biased;
        Ok(reason) = dropped => {
            place.log().dropped(&from, reason);
            None
        }
        prepared = prepare(&steps, stream, peer, &place) => match prepared {
            Ok((stream, peer)) => place.set(Stage::Passed, peer.host()).then_some((place, stream, peer)),
            Err(end) => {
                place.end(end);
                None
            }
        },
    }
}

/// Takes the steps.
async fn prepare(
    steps: &[Box<dyn Step>],
    mut stream: Stream,
    mut peer: Peer,
    place: &Place,
) -> Result<(Stream, Peer), End> {
    let from = peer.addr().clone();
    for step in steps {
        place.set(Stage::Silent, peer.host());
        let run = async {
            step.check(&peer)?;
            // A step costs nothing before there is something to read.
            poll_fn(|cx| stream.poll_readable(cx)).await;
            place.set(Stage::Spoken, peer.host());
            step.run(stream, peer).await
        };
        let end = match timeout(step.within(), run).await {
            Ok(Ok(connection)) => {
                (stream, peer) = connection;
                continue;
            }
            Ok(Err(error)) => {
                place.log().failed(&from, step.name(), &error);
                End::Failed
            }
            Err(_) => {
                place.log().timed_out(&from, step.name());
                End::TimedOut
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
            if let Poll::Ready(connection) = self.poll_passed(cx) {
                return Poll::Ready(connection);
            }
            // One that ends wakes us as well, and may leave its place to one of these.
            self.begin();
            if self.poll_taken(cx).is_pending() {
                return self.waiting.poll_time(cx);
            }
            self.begin();
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
        // The others have places, which count them as they go.
        (0..self.waiting.len()).for_each(|_| self.preambles.lost(PreambleDrop::Ended));
    }
}
