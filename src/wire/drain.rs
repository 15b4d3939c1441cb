//! The end of a draining connection's input: all that had arrived when it was told is still read.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ropewalk_middleware::Stream;
use rustix::io::ioctl_fionread;

use super::{Source, Wire};

/// What is still read of a transport that can't tell how much has arrived: as much as a kernel buffers.
const DRAIN_BYTES: u64 = 8 * 1024 * 1024;

/// A drain under way.
pub(super) struct Drain {
    /// How many bytes are still to be read.
    left: u64,
    /// For a transport that can't tell how much has arrived: lets the runtime look at its sockets once more, so that
    /// "nothing to read" is true and not merely not yet known. The kernel's own sockets can tell, and have none.
    look: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    exact: bool,
}

impl Drain {
    fn begin(stream: &Stream) -> Self {
        let arrived = match stream {
            Stream::Tcp(tcp) => ioctl_fionread(tcp).ok(),
            Stream::Unix(unix) => ioctl_fionread(unix).ok(),
            _ => None,
        };
        match arrived {
            Some(left) => Self { left, look: None, exact: true },
            None => Self { left: DRAIN_BYTES, look: Some(Box::pin(tokio::task::yield_now())), exact: false },
        }
    }
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain").field("left", &self.left).field("exact", &self.exact).finish_non_exhaustive()
    }
}

impl Wire {
    /// Counts what is read while the connection drains.
    pub(super) fn note_drain(&mut self, read: usize) {
        match &mut self.drain {
            Some(drain) => drain.left = drain.left.saturating_sub(read as u64),
            // A peer that always has more to say never lets it come to `poll_drained`.
            None if self.closing.is_draining() => self.drain = Some(Drain::begin(self.connection.stream())),
            None => return,
        }
        if self.source == Source::Open && self.drain.as_ref().is_some_and(|drain| drain.left == 0) {
            // What comes from here on came after the drain began.
            self.source = Source::Shut;
        }
    }

    /// Called when all that was read is decoded and there is nothing to read. Ready when the connection drains: then
    /// either nothing more will come, or reading is to be tried once more. Otherwise the drain will wake us.
    pub(super) fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.closing.is_draining() {
            return Poll::Pending;
        }
        let stream = self.connection.stream();
        let drain = self.drain.get_or_insert_with(|| Drain::begin(stream));
        if drain.left > 0 && drain.exact {
            // The runtime has yet to learn what the kernel holds, or has had enough of us for this turn; it will wake us.
            return Poll::Pending;
        }
        if drain.left > 0 && !tokio::task::coop::has_budget_remaining() {
            // "Nothing to read" said the runtime and meant that it is the others' turn.
            return Poll::Pending;
        }
        if let Some(look) = &mut drain.look {
            ready!(look.as_mut().poll(cx));
            drain.look = None;
        } else {
            self.source = Source::Ended;
        }
        Poll::Ready(())
    }
}
