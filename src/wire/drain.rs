//! The end of a draining connection's input: all that had arrived when it was told is still read.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ropewalk_middleware::Stream;
use tokio::time::{Sleep, sleep};

use super::{Source, Wire};

/// What is read beyond what is known to have arrived, as long as more comes without a pause: a sender's kernel may still
/// hold what the sender takes for sent.
const BEYOND: u64 = 1024 * 1024;
/// The same of a transport that can't tell how much has arrived: as much as a kernel buffers.
const UNKNOWN: u64 = 8 * 1024 * 1024;

/// How long a peer's first words, or the rest of a frame, are waited for when a hot restart has the connection drain:
/// the peer may have connected a moment ago, and its request be on its way.
const FIRST_WORDS: Duration = Duration::from_secs(5);

/// A drain under way.
pub(super) struct Drain {
    /// How many bytes are known to have arrived and not to be read yet.
    arrived: u64,
    /// How many more may be read.
    beyond: u64,
    /// For a transport that can't tell how much has arrived: lets the runtime look at its sockets once more, so that
    /// "nothing to read" is true and not merely not yet known. The kernel's own sockets can tell, and have none.
    look: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Runs while the peer's first words are waited for.
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
        f.debug_struct("Drain").field("arrived", &self.arrived).field("beyond", &self.beyond).finish_non_exhaustive()
    }
}

impl Wire {
    /// Counts what is read of what had arrived, whoever reads it.
    pub(super) fn count_drain(&mut self, read: usize) {
        if let Some(drain) = &mut self.drain {
            drain.count(read);
        }
        self.shut_when_drained();
    }

    /// Begins the drain where something was read, for a peer that always has more to say never lets it come to
    /// `poll_drained`.
    pub(super) fn note_drain(&mut self) {
        if self.drain.is_none() && self.closing.is_draining() {
            self.drain = Some(Box::new(Drain::begin(self.connection.stream())));
        }
        self.shut_when_drained();
    }

    /// What comes from here on came after the drain began.
    fn shut_when_drained(&mut self) {
        if self.source == Source::Open && self.drain.as_ref().is_some_and(|drain| drain.beyond == 0) {
            self.source = Source::Shut;
        }
    }

    /// Called when all that was read is decoded and there is nothing to read. Ready when the connection drains: then
    /// either nothing more will come, or reading is to be tried once more. Otherwise the drain will wake us.
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
            // What arrives and what is read differ in size; so it is asked whether any of it is left.
            drain.arrived = drain.arrived.min(io.arrived().unwrap_or(0));
        }
        if drain.arrived > 0 {
            // The runtime has yet to learn what the kernel holds, or has had enough of us for this turn; it will wake us.
            return Poll::Pending;
        }
        if !tokio::task::coop::has_budget_remaining() {
            // "Nothing to read" said the runtime and meant that it is the others' turn; or a stream that knows of no
            // budget meant it, and then wakes nobody.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(look) = &mut drain.look {
            ready!(look.as_mut().poll(cx));
            drain.look = None;
            return Poll::Ready(());
        }
        let waits = self.closing.has_successor() && (in_frame || self.connection.stats().bytes_in() == 0);
        if waits {
            ready!(drain.first_words.get_or_insert_with(|| Box::pin(sleep(FIRST_WORDS))).as_mut().poll(cx));
        }
        self.source = Source::Ended;
        Poll::Ready(())
    }
}
