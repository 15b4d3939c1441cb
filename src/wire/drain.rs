//! The end of a draining connection's input: all bytes that had arrived when the drain began are
//! still read.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ropewalk_middleware::Stream;
use tokio::time::{Sleep, sleep};

use super::{Source, Wire};

/// The most bytes read beyond those known to have arrived, as long as more arrive without a pause:
/// the sender's kernel may still hold bytes that the sender considers sent.
const BEYOND: u64 = 1024 * 1024;
/// The same limit for a transport that can't tell how much has arrived: as much as a kernel
/// buffers.
const UNKNOWN: u64 = 8 * 1024 * 1024;

/// How long a drain by a hot restart waits for a peer's first bytes, or for the rest of a frame:
/// the peer may have connected a moment ago, and its request may be on its way.
const FIRST_WORDS: Duration = Duration::from_secs(5);

/// A drain under way.
pub(super) struct Drain {
    /// How many bytes have arrived for certain and are not read yet.
    arrived: u64,
    /// How many more bytes may be read.
    beyond: u64,
    /// For a transport that can't tell how much has arrived: lets the runtime look at its sockets
    /// once more, so that "nothing to read" is certain. The kernel's own sockets can tell, and
    /// don't need it.
    look: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Runs while the drain waits for the peer's first bytes.
    first_words: Option<Pin<Box<Sleep>>>,
}

impl Drain {
    fn begin(stream: &Stream) -> Self {
        match stream.arrived() {
            Some(arrived) => Self { arrived, beyond: BEYOND, look: None, first_words: None },
            None => {
                let look = Box::pin(tokio::task::yield_now());
                Self { arrived: 0, beyond: UNKNOWN, look: Some(look), first_words: None }
            }
        }
    }

    fn count(&mut self, read: usize) {
        let read = read as u64;
        self.beyond = self.beyond.saturating_sub(read.saturating_sub(self.arrived));
        self.arrived = self.arrived.saturating_sub(read);
    }
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain")
            .field("arrived", &self.arrived)
            .field("beyond", &self.beyond)
            .finish_non_exhaustive()
    }
}

impl Wire {
    /// Counts bytes that are read of those that had arrived, on every path that reads.
    pub(super) fn count_drain(&mut self, read: usize) {
        if let Some(drain) = &mut self.drain {
            drain.count(read);
        }
        self.shut_when_drained();
    }

    /// Begins the drain after a read, because a peer that always sends more never lets the wire
    /// reach `poll_drained`.
    pub(super) fn note_drain(&mut self) {
        if self.drain.is_none() && self.closing.is_draining() {
            self.drain = Some(Box::new(Drain::begin(self.connection.stream())));
        }
        self.shut_when_drained();
    }

    /// Bytes that arrive from here on were sent after the drain began.
    fn shut_when_drained(&mut self) {
        if self.source == Source::Open && self.drain.as_ref().is_some_and(|drain| drain.beyond == 0)
        {
            self.source = Source::Shut;
        }
    }

    /// Called when all bytes read are decoded and there are no more to read. Ready when the
    /// connection drains: then either no more bytes will come, or the caller must try to read once
    /// more. Otherwise the drain will wake the task.
    pub(super) fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.closing.is_draining() {
            return Poll::Pending;
        }
        let in_frame = !self.at_boundary();
        let stream = self.connection.stream();
        let drain = self.drain.get_or_insert_with(|| Box::new(Drain::begin(stream)));
        if let Stream::Boxed(io) = stream
            && drain.arrived > 0
        {
            // The counts of arrived and of read bytes may differ, so the transport is asked whether
            // any are left.
            drain.arrived = drain.arrived.min(io.arrived().unwrap_or(0));
        }
        if drain.arrived > 0 {
            // The runtime hasn't yet learned what the kernel holds, or this task's budget is used
            // up; it will wake the task.
            return Poll::Pending;
        }
        if !tokio::task::coop::has_budget_remaining() {
            // "Nothing to read" may mean that the task's budget is used up; or it comes from a
            // stream that uses no budget, and then the task will not be woken.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(look) = &mut drain.look {
            ready!(look.as_mut().poll(cx));
            drain.look = None;
            return Poll::Ready(());
        }
        let waits =
            self.closing.has_successor() && (in_frame || self.connection.stats().bytes_in() == 0);
        if waits {
            ready!(
                drain
                    .first_words
                    .get_or_insert_with(|| Box::pin(sleep(FIRST_WORDS)))
                    .as_mut()
                    .poll(cx)
            );
        }
        self.source = Source::Ended;
        Poll::Ready(())
    }
}
