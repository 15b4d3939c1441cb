//! The end of a draining connection's input: all that had arrived when it was told is still read.

use std::fmt;
use std::future::Future;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ropewalk_middleware::Stream;
use socket2::SockRef;

use super::{Source, Wire};

/// What a draining connection still reads of what had arrived; as much as a kernel buffers.
const DRAIN_BYTES: usize = 8 * 1024 * 1024;

/// A drain under way: everything that had arrived when it began is still read.
pub(super) struct Drain {
    /// Lets the runtime look at the sockets once more, so that "nothing to read" is true and not merely not yet known.
    yielded: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    left: usize,
}

impl Drain {
    fn begin() -> Self {
        Self { yielded: Some(Box::pin(tokio::task::yield_now())), left: DRAIN_BYTES }
    }
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain").field("left", &self.left).finish_non_exhaustive()
    }
}

/// Whether the kernel holds bytes (or the end) that a read would give.
fn kernel_holds_input(stream: &Stream) -> bool {
    let mut byte = [MaybeUninit::uninit()];
    match stream {
        Stream::Tcp(tcp) => SockRef::from(tcp).peek(&mut byte).is_ok(),
        Stream::Unix(unix) => SockRef::from(unix).peek(&mut byte).is_ok(),
        _ => false,
    }
}

impl Wire {
    /// Counts what is read while the connection drains.
    pub(super) fn note_drain(&mut self, read: usize) {
        // A peer that always has more to say never lets it come to `poll_drained`.
        if self.drain.is_none() && self.closing.is_draining() {
            self.drain = Some(Drain::begin());
        }
        if self.source == Source::Open
            && let Some(drain) = &mut self.drain
        {
            drain.left = drain.left.saturating_sub(read);
            if drain.left == 0 {
                // It sends without end; what came since the drain began is not ours to answer.
                self.source = Source::Shut;
            }
        }
    }

    /// Called when all that was read is decoded and there is nothing to read. Ready when the connection drains: then
    /// either nothing more will come, or reading is to be tried once more. Otherwise the drain will wake us.
    pub(super) fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.drain.is_none() {
            ready!(self.closing.poll_draining(cx));
            self.drain = Some(Drain::begin());
        }
        match self.drain.as_mut().and_then(|drain| drain.yielded.as_mut()) {
            Some(yielded) => {
                ready!(yielded.as_mut().poll(cx));
                self.drain.as_mut().map(|drain| drain.yielded.take());
            }
            // On another thread the runtime may have yet to learn what the kernel holds; it will wake us.
            None if kernel_holds_input(self.connection.stream()) => return Poll::Pending,
            None => self.source = Source::Ended,
        }
        Poll::Ready(())
    }
}
