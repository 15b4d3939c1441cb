//! The wait for a future that is not the connection's, while the connection goes on.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project::{pin_project, pinned_drop};

use super::Session;
use crate::wire::Wire;
use ropewalk_middleware::Result;

impl<C> Session<C> {
    /// Awaits another future while the connection goes on: queued frames are written, up to one
    /// buffer is read ahead, and while there is room to read, a broken connection is noticed.
    ///
    /// A future that is ready at once causes a write only if all received frames are decoded;
    /// otherwise the following [`Session::next`] writes once for the whole burst.
    ///
    /// ```
    /// # use ropewalk::{Lines, Result, Session};
    /// # async fn lookup(_: ropewalk::Bytes) -> String { String::new() }
    /// # async fn doc(mut s: Session<Lines>) -> Result {
    /// while let Some(name) = s.next().await? {
    ///     let answer = s.during(lookup(name)).await?;
    ///     s.feed(answer)?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of the connection; the future is dropped then. A peer that merely closes its side does
    /// not cause an error: it may still wait for the answer.
    ///
    /// # Cancel safety
    ///
    /// As safe as the future, which is dropped with it; the session loses no data.
    #[inline]
    pub fn during<F: Future>(&mut self, future: F) -> During<'_, F> {
        During { wire: &mut self.wire, begun: false, waits: false, future }
    }
}

/// The future of [`Session::during`]. It is a named type, because that of an async function would
/// move the other future twice.
#[pin_project(PinnedDrop)]
#[must_use = "futures do nothing unless polled"]
pub struct During<'a, F> {
    wire: &'a mut Wire,
    begun: bool,
    /// It may have begun to wait for the peer.
    waits: bool,
    #[pin]
    future: F,
}

impl<F: Future> Future for During<'_, F> {
    type Output = Result<F::Output>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let wire = this.wire;
        if !*this.begun {
            ready!(wire.poll_step(cx));
            wire.check_live()?;
            wire.begin_wait();
            *this.begun = true;
        }
        if let Poll::Ready(output) = this.future.poll(cx) {
            if wire.writes_between() {
                *this.waits = true;
                wire.write_between(cx);
            }
            return Poll::Ready(Ok(output));
        }
        if wire.waits_a_round(cx) {
            return Poll::Pending;
        }
        *this.waits = true;
        wire.poll_long_wait(cx).map(Err)
    }
}

#[pinned_drop]
impl<F> PinnedDrop for During<'_, F> {
    /// The session no longer waits for the peer, and no deadline counts.
    fn drop(self: Pin<&mut Self>) {
        let this = self.project();
        if *this.waits {
            this.wire.pause();
        }
        // It may be long before the session waits for the peer again.
        this.wire.note_moved();
    }
}

impl<F> fmt::Debug for During<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("During").field("wire", &self.wire).finish_non_exhaustive()
    }
}
