//! The calls under way of one connection.

#![allow(unreachable_pub)] // types of public associated types, which needn't be named

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;

use super::slots::CallBlocks;

/// Room for this many answers is made at once.
const FEW: usize = 16;

/// Calls under way, and the order of their answers.
///
/// In all implementations, a call that is ready at once while no other is under way costs no
/// allocation: it is polled in place.
pub trait Calls<F: Future> {
    /// Whether the answers are in the order of the frames.
    const IN_ORDER: bool = true;

    /// Adds a call while no answer can be taken. Requires that there is room. The caller calls
    /// `poll_progress` next.
    fn push(self: Pin<&mut Self>, call: F, cx: &mut Context<'_>);

    /// Adds a call and polls it. Requires that there is room. Ready with its answer if that is the
    /// next one.
    ///
    /// Inlined, so that the frame and the answer stay in registers when the call is ready at once.
    /// Otherwise they are stored in words and loaded again in vectors at once, which costs as much
    /// as finding a frame.
    fn poll_call(self: Pin<&mut Self>, call: F, cx: &mut Context<'_>) -> Poll<F::Output>;

    /// The next answer; `None` when no calls are under way.
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<F::Output>>;

    /// Lets the calls go on while no answer can be taken, because they may hold permits that others
    /// wait for.
    fn poll_progress(self: Pin<&mut Self>, cx: &mut Context<'_>);

    /// Frees the memory in which calls were kept. For an idle connection.
    fn release(self: Pin<&mut Self>) {}

    fn has_room(&self) -> bool;

    fn is_empty(&self) -> bool;
}

/// One call at a time.
#[pin_project]
#[derive(Debug)]
pub struct OneAtATime<F> {
    #[pin]
    call: Option<F>,
}

impl<F> OneAtATime<F> {
    pub(crate) const fn new() -> Self {
        Self { call: None }
    }
}

impl<F: Future> Calls<F> for OneAtATime<F> {
    fn push(self: Pin<&mut Self>, call: F, _: &mut Context<'_>) {
        self.project().call.set(Some(call));
    }

    #[inline(always)]
    fn poll_call(self: Pin<&mut Self>, call: F, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut slot = self.project().call;
        slot.set(Some(call));
        let Some(call) = slot.as_mut().as_pin_mut() else { return Poll::Pending };
        let answer = ready!(call.poll(cx));
        slot.set(None);
        Poll::Ready(answer)
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<F::Output>> {
        let mut slot = self.project().call;
        let Some(call) = slot.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        let answer = ready!(call.poll(cx));
        slot.set(None);
        Poll::Ready(Some(answer))
    }

    // While an answer is written no call exists, and no call is made.
    fn poll_progress(self: Pin<&mut Self>, _: &mut Context<'_>) {}

    fn has_room(&self) -> bool {
        self.call.is_none()
    }

    fn is_empty(&self) -> bool {
        self.call.is_none()
    }
}

/// Several calls at once, answers in the order of the frames.
#[pin_project]
pub struct Ordered<F: Future> {
    /// The oldest call, in place, if no others were under way when it was added.
    #[pin]
    first: OneAtATime<F>,
    /// The later calls that are pending.
    others: Option<CallBlocks<F>>,
    /// The results of the later calls, in their order.
    answers: VecDeque<Option<F::Output>>,
    /// The number of the call that belongs to the first entry of `answers`.
    next: usize,
    max: usize,
}

impl<F: Future> Ordered<F> {
    pub(crate) fn new(max: usize) -> Self {
        Self { first: OneAtATime::new(), others: None, answers: VecDeque::new(), next: 0, max }
    }

    fn len(&self) -> usize {
        usize::from(!self.first.is_empty()) + self.answers.len()
    }

    fn push_behind(self: Pin<&mut Self>, call: F, cx: &Context<'_>) {
        let this = self.project();
        let others = this.others.get_or_insert_with(|| CallBlocks::new(cx));
        let answer = match others.poll_call(call, this.next.wrapping_add(this.answers.len()), cx) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => None,
        };
        if this.answers.capacity() == 0 {
            this.answers.reserve(FEW.min(*this.max));
        }
        this.answers.push_back(answer);
    }

    fn poll_others(self: Pin<&mut Self>, cx: &Context<'_>) {
        let this = self.project();
        let answers = this.answers;
        let next = *this.next;
        let Some(others) = this.others else { return };
        others.poll_woken(cx, |number, answer| {
            if let Some(place) = answers.get_mut(number.wrapping_sub(next)) {
                *place = Some(answer);
            }
        });
    }

    /// The next answer, if it is there.
    fn pop(self: Pin<&mut Self>) -> Option<F::Output> {
        let this = self.project();
        let answer = this.answers.front_mut()?.take()?;
        this.answers.pop_front();
        *this.next = this.next.wrapping_add(1);
        Some(answer)
    }
}

impl<F: Future> Calls<F> for Ordered<F> {
    fn push(self: Pin<&mut Self>, call: F, cx: &mut Context<'_>) {
        if self.is_empty() {
            self.project().first.push(call, cx);
        } else {
            self.push_behind(call, cx);
        }
    }

    #[inline(always)]
    fn poll_call(self: Pin<&mut Self>, call: F, cx: &mut Context<'_>) -> Poll<F::Output> {
        if self.is_empty() {
            return self.project().first.poll_call(call, cx);
        }
        self.push_behind(call, cx);
        Poll::Pending
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<F::Output>> {
        let first = self.as_mut().project().first.poll_next(cx);
        match first {
            Poll::Ready(Some(answer)) => return Poll::Ready(Some(answer)),
            Poll::Ready(None) => {
                if let Some(answer) = self.as_mut().pop() {
                    return Poll::Ready(Some(answer));
                }
            }
            Poll::Pending => {}
        }
        if self.answers.is_empty() {
            return first;
        }
        // The other calls go on meanwhile.
        self.as_mut().poll_others(cx);
        match first {
            Poll::Ready(None) => {
                self.pop().map_or(Poll::Pending, |answer| Poll::Ready(Some(answer)))
            }
            waits => waits,
        }
    }

    fn poll_progress(mut self: Pin<&mut Self>, cx: &mut Context<'_>) {
        let this = self.as_mut().project();
        if let Poll::Ready(Some(answer)) = this.first.poll_next(cx) {
            // It is the oldest, because the others came after it.
            this.answers.push_front(Some(answer));
            *this.next = this.next.wrapping_sub(1);
        }
        self.poll_others(cx);
    }

    fn release(self: Pin<&mut Self>) {
        let this = self.project();
        if this.others.take().is_some() {
            *this.answers = VecDeque::new();
        }
    }

    fn has_room(&self) -> bool {
        self.len() < self.max
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<F: Future> fmt::Debug for Ordered<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ordered")
            .field("len", &self.len())
            .field("max", &self.max)
            .finish_non_exhaustive()
    }
}

/// Several calls at once, each answer when it is ready.
#[pin_project]
pub struct Unordered<F: Future> {
    #[pin]
    first: OneAtATime<F>,
    others: Option<CallBlocks<F>>,
    /// Answers that were ready together with another one, or while no answer could be taken.
    done: VecDeque<F::Output>,
    /// The number of calls in `others`.
    waiting: usize,
    max: usize,
}

impl<F: Future> Unordered<F> {
    pub(crate) fn new(max: usize) -> Self {
        Self { first: OneAtATime::new(), others: None, done: VecDeque::new(), waiting: 0, max }
    }

    fn len(&self) -> usize {
        usize::from(!self.first.is_empty()) + self.waiting + self.done.len()
    }

    fn poll_beside(self: Pin<&mut Self>, call: F, cx: &Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let polled = this.others.get_or_insert_with(|| CallBlocks::new(cx)).poll_call(call, 0, cx);
        *this.waiting += usize::from(polled.is_pending());
        polled
    }

    fn poll_others(self: Pin<&mut Self>, cx: &Context<'_>) {
        let this = self.project();
        let done = this.done;
        let waiting = this.waiting;
        let Some(others) = this.others else { return };
        others.poll_woken(cx, |_, answer| {
            *waiting -= 1;
            done.push_back(answer);
        });
    }
}

impl<F: Future> Calls<F> for Unordered<F> {
    const IN_ORDER: bool = false;

    fn push(mut self: Pin<&mut Self>, call: F, cx: &mut Context<'_>) {
        if self.first.has_room() {
            self.project().first.push(call, cx);
        } else if let Poll::Ready(answer) = self.as_mut().poll_beside(call, cx) {
            self.project().done.push_back(answer);
        }
    }

    #[inline(always)]
    fn poll_call(self: Pin<&mut Self>, call: F, cx: &mut Context<'_>) -> Poll<F::Output> {
        if self.first.has_room() {
            return self.project().first.poll_call(call, cx);
        }
        self.poll_beside(call, cx)
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<F::Output>> {
        if let Some(answer) = self.as_mut().project().done.pop_front() {
            return Poll::Ready(Some(answer));
        }
        let first = self.as_mut().project().first.poll_next(cx);
        if self.waiting == 0 || matches!(first, Poll::Ready(Some(_))) {
            return first;
        }
        self.as_mut().poll_others(cx);
        self.project().done.pop_front().map_or(Poll::Pending, |answer| Poll::Ready(Some(answer)))
    }

    fn poll_progress(mut self: Pin<&mut Self>, cx: &mut Context<'_>) {
        let this = self.as_mut().project();
        if let Poll::Ready(Some(answer)) = this.first.poll_next(cx) {
            this.done.push_back(answer);
        }
        self.poll_others(cx);
    }

    fn release(self: Pin<&mut Self>) {
        let this = self.project();
        if this.others.take().is_some() {
            *this.done = VecDeque::new();
        }
    }

    fn has_room(&self) -> bool {
        self.len() < self.max
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<F: Future> fmt::Debug for Unordered<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unordered")
            .field("len", &self.len())
            .field("max", &self.max)
            .finish_non_exhaustive()
    }
}
