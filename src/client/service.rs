//! The types that callers hold: the service, and a call under way.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;
use tower_service::Service;

use super::error::ClientError;
use super::shared::{Admission, CallState, ClientShared, Grant, Later, Waiter};

/// A service of calls on one connection, which clones share: `Service<Req, Response = Ans>`.
///
/// Made by [`Client::pipelined`](super::Client::pipelined) and
/// [`Client::tagged`](super::Client::tagged). Its type does not contain the codec.
///
/// It is ready when there is a connection and a free slot among the calls [in
/// flight](super::Client::in_flight). Each ready clone holds a slot of its own; if it is dropped
/// unused, the next caller gets the slot. A caller that has waited for
/// [`call_within`](super::Client::call_within) becomes ready without a slot, and its call fails
/// with [`TimedOut`](ClientError::TimedOut). `poll_ready` itself never fails, because its error
/// would be final to tower's `Buffer` and `Balance`.
///
/// When the last clone is dropped the client drains in the background: calls whose futures are
/// still held are answered, the connection is closed, and the task ends.
pub struct Pipelined<Req, Ans> {
    shared: Arc<ClientShared<Req, Ans>>,
    ticket: Ticket,
}

impl<Req, Ans> Pipelined<Req, Ans> {
    pub(super) fn new(shared: Arc<ClientShared<Req, Ans>>) -> Self {
        Self { shared, ticket: Ticket::Nothing }
    }

    /// Waits for a slot, calls, and waits for the answer: the same as `ready` and `call`, under one
    /// deadline.
    ///
    /// ```
    /// use ropewalk::client::Client;
    /// use ropewalk::{Bytes, Lines, Server, framed, memory, reply_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> ropewalk::Result {
    /// let (endpoint, connector) = memory::endpoint();
    /// tokio::spawn(Server::new().listen(endpoint).serve(framed(Lines::lf(), reply_fn(|line: Bytes| line))).into_future());
    ///
    /// let (echo, _handle) = Client::new().connect(connector).pipelined::<String, _>(Lines::lf())?;
    /// let (a, b) = tokio::join!(echo.ask("one"), echo.ask("two"));
    /// assert_eq!((&a?[..], &b?[..]), (&b"one"[..], &b"two"[..]));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// If it is dropped before the request is encoded, no part of it is sent. If it is dropped
    /// later, its answer is discarded when it arrives, and its slot stays taken until then; no
    /// other call receives its answer.
    ///
    /// # Errors
    ///
    /// See [`ClientError`], which tells whether the server may have seen the request.
    pub async fn ask(&self, req: impl Into<Req>) -> Result<Ans, ClientError> {
        // Not a clone of the service, which would cost more than the call.
        let mut asking = Asking { shared: &self.shared, ticket: Ticket::Nothing };
        poll_fn(|cx| asking.ticket.poll_slot(asking.shared, cx)).await;
        asking.ticket.start(asking.shared, req.into()).await
    }

    /// How many calls hold a slot, without those that are answered; `usize::MAX` while there is no
    /// connection.
    pub fn in_flight(&self) -> usize {
        let inner = self.shared.lock();
        if matches!(inner.gate, Admission::Open) { inner.taken() } else { usize::MAX }
    }
}

impl<Req, Ans> Clone for Pipelined<Req, Ans> {
    /// Another service on the same connection, not ready.
    fn clone(&self) -> Self {
        self.shared.services.fetch_add(1, Ordering::Relaxed);
        Self::new(Arc::clone(&self.shared))
    }
}

impl<Req, Ans> Drop for Pipelined<Req, Ans> {
    fn drop(&mut self) {
        self.ticket.give_back(&self.shared);
        if self.shared.services.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.wake(self.shared.lock());
        }
    }
}

impl<Req, Ans> fmt::Debug for Pipelined<Req, Ans> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipelined")
            .field("state", &*self.shared.state.borrow())
            .finish_non_exhaustive()
    }
}

impl<Req, Ans> Service<Req> for Pipelined<Req, Ans> {
    type Response = Ans;
    type Error = ClientError;
    type Future = Call<Req, Ans>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        self.ticket.poll_slot(&self.shared, cx).map(Ok)
    }

    fn call(&mut self, req: Req) -> Call<Req, Ans> {
        self.ticket.start(&self.shared, req)
    }
}

/// The slot of a call that is not made yet, or the wait for it.
enum Ticket {
    Nothing,
    /// A slot, with the time that the caller has waited for it.
    Slot(Duration),
    Waiting(usize),
    Refused(ClientError),
}

impl Ticket {
    fn poll_slot<Req, Ans>(
        &mut self,
        shared: &ClientShared<Req, Ans>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        if let Self::Slot(_) = *self {
            return Poll::Ready(());
        }
        let mut inner = shared.lock();
        if let Self::Waiting(key) = *self {
            let waiter = &mut inner.waiters[key];
            let Some(granted) = waiter.granted.take() else {
                let old = waiter.waker.replace(cx.waker().clone());
                drop(inner);
                drop(old);
                return Poll::Pending;
            };
            inner.waiters.remove(key);
            *self = match granted {
                Grant::Slot(waited) => Self::Slot(waited),
                Grant::Refused(error) => Self::Refused(error),
            };
            return Poll::Ready(());
        }
        match &inner.gate {
            Admission::Open if inner.free > 0 && inner.waiting.is_empty() => {
                inner.free -= 1;
                *self = Self::Slot(Duration::ZERO);
                return Poll::Ready(());
            }
            Admission::Refusing(error) => {
                *self = Self::Refused(error.clone());
                return Poll::Ready(());
            }
            // It has failed already, and no slot is free, so it stays ready with the error.
            _ if matches!(*self, Self::Refused(_)) => return Poll::Ready(()),
            _ => {}
        }
        let waker = Some(cx.waker().clone());
        let key = inner.waiters.insert(Waiter { waker, since: Instant::now(), granted: None });
        inner.waiting.push_back(key);
        *self = Self::Waiting(key);
        // The task has to be woken for the caller's deadline.
        shared.wake(inner);
        Poll::Pending
    }

    fn start<Req, Ans>(
        &mut self,
        shared: &Arc<ClientShared<Req, Ans>>,
        req: Req,
    ) -> Call<Req, Ans> {
        let waited = match std::mem::replace(self, Self::Nothing) {
            Self::Slot(waited) => waited,
            Self::Refused(error) => return Call(At::Failed(error)),
            other => {
                *self = other;
                return Call(At::Failed(ClientError::NotReady));
            }
        };
        let mut inner = shared.lock();
        if let Admission::Refusing(error) = &inner.gate {
            // The caller became ready before the drain began.
            let error = error.clone();
            inner.free += 1;
            return Call(At::Failed(error));
        }
        let key = inner.enqueue(req, waited);
        shared.wake(inner);
        Call(At::Pending(Arc::clone(shared), key))
    }

    /// Gives back a slot, or ends the wait for one.
    fn give_back<Req, Ans>(&mut self, shared: &ClientShared<Req, Ans>) {
        if matches!(self, Self::Nothing | Self::Refused(_)) {
            return;
        }
        let mut later = Later::default();
        let mut inner = shared.lock();
        let waiter = match std::mem::replace(self, Self::Nothing) {
            Self::Waiting(key) => {
                // Searched from the front, because those that have waited longest give up first.
                if let Some(at) = inner.waiting.iter().position(|&waiting| waiting == key) {
                    inner.waiting.remove(at);
                }
                Some(inner.waiters.remove(key))
            }
            Self::Slot(_) => {
                inner.free_slot(&mut later);
                None
            }
            _ => None,
        };
        if let Some(Waiter { granted: Some(Grant::Slot(_)), .. }) = waiter {
            inner.free_slot(&mut later);
        }
        drop(inner);
        drop(waiter);
        later.run();
    }
}

/// A call of [`Pipelined::ask`] that waits for its slot. Dropping it gives the slot back.
struct Asking<'a, Req, Ans> {
    shared: &'a Arc<ClientShared<Req, Ans>>,
    ticket: Ticket,
}

impl<Req, Ans> Drop for Asking<'_, Req, Ans> {
    fn drop(&mut self) {
        self.ticket.give_back(self.shared);
    }
}

/// A call under way: the future of [`Pipelined`].
///
/// # Cancel safety
///
/// As for [`Pipelined::ask`]: if it is dropped, no other call receives its answer.
#[must_use = "if it is dropped, the call is withdrawn if it is not written yet; otherwise its answer is discarded"]
pub struct Call<Req, Ans>(At<Req, Ans>);

enum At<Req, Ans> {
    Pending(Arc<ClientShared<Req, Ans>>, usize),
    Failed(ClientError),
    Gone,
}

// The request is in the slot, and never pinned.
impl<Req, Ans> Unpin for Call<Req, Ans> {}

impl<Req, Ans> Future for Call<Req, Ans> {
    type Output = Result<Ans, ClientError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let At::Pending(shared, key) = &self.0 {
            let mut inner = shared.lock();
            if let CallState::Queued { waker, .. } | CallState::Out { waker } =
                &mut inner.calls[*key]
            {
                let old = match waker {
                    Some(old) if old.will_wake(cx.waker()) => None,
                    waker => waker.replace(cx.waker().clone()),
                };
                drop(inner);
                drop(old);
                return Poll::Pending;
            }
            let call = inner.calls.remove(*key);
            drop(inner);
            self.0 = At::Gone;
            return match call {
                CallState::Done(result) => Poll::Ready(result),
                // Only the drop of this call abandons it, so this doesn't happen.
                _ => Poll::Ready(Err(ClientError::NotReady)),
            };
        }
        match std::mem::replace(&mut self.0, At::Gone) {
            At::Failed(error) => Poll::Ready(Err(error)),
            _ => panic!("a call was polled after it was ready"),
        }
    }
}

impl<Req, Ans> Drop for Call<Req, Ans> {
    fn drop(&mut self) {
        let At::Pending(shared, key) = &self.0 else { return };
        let mut later = Later::default();
        let mut inner = shared.lock();
        match &mut inner.calls[*key] {
            call @ CallState::Out { .. } => {
                later.drop(std::mem::replace(call, CallState::Abandoned));
                inner.counts.dropped += 1;
            }
            CallState::Queued { .. } => {
                inner.unqueue(*key);
                later.drop(inner.calls.remove(*key));
                inner.counts.dropped += 1;
                inner.free_slot(&mut later);
                if inner.queue.is_empty() {
                    // A client that drains may wait for the queue to be empty.
                    shared.wake(inner);
                    later.run();
                    return;
                }
            }
            CallState::Done(_) | CallState::Abandoned => later.drop(inner.calls.remove(*key)),
        }
        drop(inner);
        later.run();
    }
}

impl<Req, Ans> fmt::Debug for Call<Req, Ans> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").finish_non_exhaustive()
    }
}
