//! The calls of one connection that are under way.

#![allow(unreachable_pub)] // types of public associated types, which nobody needs to name

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::Stream;
use futures::stream::{FuturesOrdered, FuturesUnordered};
use pin_project::pin_project;

/// Calls under way, and the order in which their answers come.
///
/// A call that is ready at once, while no other is under way, costs no allocation in any of them: it is polled where it
/// lies.
pub trait Calls<F: Future> {
    /// Whether the answers come in the order of the frames.
    const IN_ORDER: bool = true;

    /// Adds a call; only when there is room.
    fn push(self: Pin<&mut Self>, call: F);

    /// Adds a call, and asks for the next answer.
    ///
    /// Inlined, so that what a call is given and gives stays in registers when it is ready at once: stored by the word and
    /// loaded again at once by the vector, it would cost as much as finding a frame.
    #[inline(always)]
    fn poll_call(mut self: Pin<&mut Self>, call: F, cx: &mut Context<'_>) -> Poll<Option<F::Output>> {
        self.as_mut().push(call);
        self.poll_next(cx)
    }

    /// The next answer; `None` when nothing is under way.
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<F::Output>>;

    /// Lets the calls go on while no answer can be taken: they may hold what others wait for.
    fn poll_progress(self: Pin<&mut Self>, cx: &mut Context<'_>);

    fn has_room(&self) -> bool;

    fn is_empty(&self) -> bool;
}

/// One at a time.
#[pin_project]
#[derive(Debug)]
pub struct One<F> {
    #[pin]
    call: Option<F>,
}

impl<F> One<F> {
    pub(crate) const fn new() -> Self {
        Self { call: None }
    }
}

impl<F: Future> Calls<F> for One<F> {
    fn push(self: Pin<&mut Self>, call: F) {
        self.project().call.set(Some(call));
    }

    #[inline(always)]
    fn poll_call(self: Pin<&mut Self>, call: F, cx: &mut Context<'_>) -> Poll<Option<F::Output>> {
        let mut slot = self.project().call;
        slot.set(Some(call));
        let Some(call) = slot.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        let answer = ready!(call.poll(cx));
        slot.set(None);
        Poll::Ready(Some(answer))
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<F::Output>> {
        let mut slot = self.project().call;
        let Some(call) = slot.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        let answer = ready!(call.poll(cx));
        slot.set(None);
        Poll::Ready(Some(answer))
    }

    // While an answer is written there is no call, and no call is made.
    fn poll_progress(self: Pin<&mut Self>, _: &mut Context<'_>) {}

    fn has_room(&self) -> bool {
        self.call.is_none()
    }

    fn is_empty(&self) -> bool {
        self.call.is_none()
    }
}

/// Lets calls go on and keeps the answers that come.
fn collect<S: Stream + Unpin>(calls: &mut S, done: &mut VecDeque<S::Item>, cx: &mut Context<'_>) {
    while let Poll::Ready(Some(answer)) = Pin::new(&mut *calls).poll_next(cx) {
        done.push_back(answer);
    }
}

/// Several at once, answers in the order of the frames.
#[pin_project]
#[derive(Debug)]
pub struct Ordered<F: Future> {
    /// The oldest, in place, when it found the others empty.
    #[pin]
    first: One<F>,
    others: FuturesOrdered<F>,
    /// Answers of `others` that wait for `first`.
    done: VecDeque<F::Output>,
    max: usize,
}

impl<F: Future> Ordered<F> {
    pub(crate) fn new(max: usize) -> Self {
        Self { first: One::new(), others: FuturesOrdered::new(), done: VecDeque::new(), max }
    }

    fn len(&self) -> usize {
        usize::from(!self.first.is_empty()) + self.others.len() + self.done.len()
    }
}

impl<F: Future> Calls<F> for Ordered<F> {
    fn push(self: Pin<&mut Self>, call: F) {
        let first = self.is_empty();
        let this = self.project();
        if first { this.first.push(call) } else { this.others.push_back(call) }
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<F::Output>> {
        let this = self.project();
        match this.first.poll_next(cx) {
            Poll::Ready(Some(answer)) => return Poll::Ready(Some(answer)),
            Poll::Ready(None) => {}
            Poll::Pending => {
                // The others go on meanwhile.
                collect(this.others, this.done, cx);
                return Poll::Pending;
            }
        }
        if let Some(answer) = this.done.pop_front() {
            return Poll::Ready(Some(answer));
        }
        Pin::new(this.others).poll_next(cx)
    }

    fn poll_progress(self: Pin<&mut Self>, cx: &mut Context<'_>) {
        let this = self.project();
        if let Poll::Ready(Some(answer)) = this.first.poll_next(cx) {
            // It is the oldest: what is done came after it.
            this.done.push_front(answer);
        }
        collect(this.others, this.done, cx);
    }

    fn has_room(&self) -> bool {
        self.len() < self.max
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Several at once, answers as they come.
#[pin_project]
#[derive(Debug)]
pub struct Unordered<F: Future> {
    #[pin]
    first: One<F>,
    others: FuturesUnordered<F>,
    /// Answers that came while none could be taken.
    done: VecDeque<F::Output>,
    max: usize,
}

impl<F: Future> Unordered<F> {
    pub(crate) fn new(max: usize) -> Self {
        Self { first: One::new(), others: FuturesUnordered::new(), done: VecDeque::new(), max }
    }

    fn len(&self) -> usize {
        usize::from(!self.first.is_empty()) + self.others.len() + self.done.len()
    }
}

impl<F: Future> Calls<F> for Unordered<F> {
    const IN_ORDER: bool = false;

    fn push(self: Pin<&mut Self>, call: F) {
        let this = self.project();
        if this.first.has_room() { this.first.push(call) } else { this.others.push(call) }
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<F::Output>> {
        let this = self.project();
        if let Some(answer) = this.done.pop_front() {
            return Poll::Ready(Some(answer));
        }
        let first = this.first.poll_next(cx);
        if let Poll::Ready(Some(_)) = first {
            return first;
        }
        match Pin::new(this.others).poll_next(cx) {
            Poll::Ready(None) if first.is_pending() => Poll::Pending,
            other => other,
        }
    }

    fn poll_progress(self: Pin<&mut Self>, cx: &mut Context<'_>) {
        let this = self.project();
        if let Poll::Ready(Some(answer)) = this.first.poll_next(cx) {
            this.done.push_back(answer);
        }
        collect(this.others, this.done, cx);
    }

    fn has_room(&self) -> bool {
        self.len() < self.max
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
