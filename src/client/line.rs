//! The loop of one connection: it reads answers, writes requests, and keeps the deadlines of calls.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::time::Instant;
use tokio_util::codec::{Decoder, Encoder};

use super::ClientOptions;
use super::error::{Cause, ClientError, cause};
use super::gather::{Gather, Part, TakePush};
use super::matching::{Match, Out, Whose};
use super::shared::{Admission, ClientShared, Later, earlier};
use crate::wire::{Timer, Wire, after};
use ropewalk_middleware::{BoxError, Error};

/// The most requests that are taken from the queue under one lock.
const BATCH: usize = 256;

/// The reason why a connection has ended.
#[derive(Debug)]
pub(super) enum LineEnd {
    /// The client drains, and all calls are answered.
    Drained,
    /// The drain's deadline has passed.
    DrainedLate,
    /// It has reached its maximum age, and all calls are answered.
    Aged,
    /// The server closed it.
    Closed,
    Broken(Error),
    Desynchronized,
    /// An answer exceeds its limits.
    OverMax,
    /// The server has not answered for too long.
    Stalled,
}

impl LineEnd {
    pub(super) fn text(&self) -> &'static str {
        match self {
            Self::Drained | Self::DrainedLate => "the client was drained",
            Self::Aged => "the connection was replaced because of its age",
            Self::Closed => "the server has closed the connection",
            Self::Broken(_) => "the connection broke",
            Self::Desynchronized => {
                "the server sent a frame that answers no request; read a greeting in `prepare`"
            }
            Self::OverMax => "an answer is larger than max_answer allows",
            Self::Stalled => "the server has not answered for too long",
        }
    }
}

/// One connection and its calls.
pub(super) struct Line<C: Decoder, M, G: Gather<C::Item>, H, Req> {
    pub(super) shared: Arc<ClientShared<Req, G::Answer>>,
    options: ClientOptions,
    codec: C,
    pub(super) wire: Box<Wire>,
    matching: M,
    gather: G,
    pushes: H,
    /// The total of bytes encoded on this connection.
    encoded: u64,
    batch: VecDeque<(usize, Req, Instant)>,
    answers: Vec<(Option<usize>, G::Answer)>,
    later: Later<Req, G::Answer>,
    /// Other callers have had a turn to queue their calls before the next write.
    yielded: bool,
    /// How many calls were encoded in the last batch.
    last: usize,
    /// Calls are left in the queue, because the wire had no room or the turn was over.
    left: bool,
    /// Answers have arrived since `progress` was last set.
    answered: bool,
    /// When the last answers arrived, as of the last check of the deadlines.
    progress: Instant,
    /// How many sent calls have timed out and wait for their answers.
    late: usize,
    /// When the connection reaches its maximum age. It takes no more calls then.
    expires: Option<Instant>,
    aged: bool,
    timer: Timer,
}

impl<C, M, G, H, Req> Line<C, M, G, H, Req>
where
    C: Decoder<Error: Into<BoxError>> + Encoder<Req, Error: Into<BoxError>>,
    M: Match<Req, C::Item>,
    G: Gather<C::Item>,
    H: TakePush<C::Item>,
{
    pub(super) fn new(
        shared: Arc<ClientShared<Req, G::Answer>>,
        options: ClientOptions,
        (codec, wire): (C, Box<Wire>),
        (matching, gather, pushes): (M, G, H),
    ) -> Self {
        let now = Instant::now();
        Self {
            shared,
            options,
            codec,
            // Bytes that the preparation has queued.
            encoded: wire.unwritten() as u64,
            wire,
            matching,
            gather,
            pushes,
            batch: VecDeque::new(),
            answers: Vec::new(),
            later: Later::default(),
            yielded: false,
            last: 0,
            left: false,
            answered: false,
            progress: now,
            late: 0,
            expires: options.expires(now),
            aged: false,
            timer: Timer::default(),
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<LineEnd> {
        self.shared.register(cx);
        loop {
            if !self.wire.has_turn() {
                // A server that always sends more must not delay the deadlines of calls.
                if let Poll::Ready(Some(end)) = self.poll_deadlines(cx) {
                    return Poll::Ready(end);
                }
                ready!(self.wire.poll_turn(cx));
            }
            if let Err(end) = self.read() {
                return Poll::Ready(end);
            }
            if self.wire.has_ended() {
                return Poll::Ready(LineEnd::Closed);
            }
            if let Some(end) = ready!(self.poll_write(cx)) {
                return Poll::Ready(end);
            }
            // It reads while a write waits: two peers that both write first must not wait for each
            // other.
            match self.wire.poll_more(true, cx) {
                Poll::Ready(Ok(())) => continue,
                Poll::Ready(Err(error)) => return Poll::Ready(LineEnd::Broken(error)),
                Poll::Pending => {}
            }
            if self.left && self.wire.has_room() {
                continue;
            }
            if let Some(end) = ready!(self.poll_deadlines(cx)) {
                return Poll::Ready(end);
            }
        }
    }

    /// Delivers the answers that were read, until an error or the end of the turn.
    fn read(&mut self) -> Result<(), LineEnd> {
        let mut result = Ok(());
        // The turn also counts frames that don't complete an answer.
        while self.wire.has_turn() && result.is_ok() {
            match self.wire.decode(&mut self.codec) {
                Some(Ok(frame)) => result = self.take(frame),
                Some(Err(error)) => result = Err(LineEnd::Broken(error)),
                None => break,
            }
        }
        if self.answers.is_empty() {
            return result;
        }
        self.answered = true;
        let mut inner = self.shared.lock();
        for (key, answer) in self.answers.drain(..) {
            if let Some(key) = key {
                inner.settle(key, Ok(answer), &mut self.later);
            } else {
                self.late -= 1;
                self.later.drop(super::shared::CallState::Done(Ok(answer)));
            }
            inner.free_slot(&mut self.later);
        }
        drop(inner);
        self.later.run();
        result
    }

    /// Adds a frame to the answer it belongs to, or passes it on as a push.
    fn take(&mut self, frame: C::Item) -> Result<(), LineEnd> {
        let at = self.wire.taken();
        let part = self.gather.part(&frame);
        let whose = if part == Part::Push { Whose::Push } else { self.matching.find(&frame) };
        match whose {
            Whose::Push => {
                self.gather.pass(at);
                self.pushes.push(frame);
            }
            Whose::Nobody => return Err(LineEnd::Desynchronized),
            Whose::Call(id) => {
                if let Some(answer) =
                    self.gather.add(frame, part, at).map_err(|_| LineEnd::OverMax)?
                    && let Some(out) = self.matching.done(id)
                {
                    self.answers.push((out.key, answer));
                }
            }
        }
        Ok(())
    }

    /// Encodes queued requests while the wire has room. Ready with an end when the client drains or
    /// the connection is to be replaced, and no calls are left.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Option<LineEnd>> {
        loop {
            let mut inner = self.shared.look();
            if self.aged || inner.queue.is_empty() {
                self.left = false;
                let over = inner.queue.is_empty()
                    && (inner.draining.is_some() || self.shared.is_orphaned());
                let end =
                    if over { Some(LineEnd::Drained) } else { self.aged.then_some(LineEnd::Aged) };
                return Poll::Ready(end.filter(|_| self.matching.len() == 0));
            }
            let crowd = self.last > 1 || self.matching.len() > 0;
            if crowd
                && inner.queue.len() < inner.slots
                && !std::mem::replace(&mut self.yielded, true)
            {
                // The caller that woke this task may be the first of many, which all get a turn to
                // queue their calls.
                drop(inner);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.left = !self.wire.has_room();
            if self.left {
                return Poll::Ready(None);
            }
            let now = Instant::now();
            inner.note_time(now);
            while self.batch.len() < BATCH
                && let Some(call) = inner.pop(now)
            {
                self.batch.push_back(call);
            }
            let all = inner.queue.is_empty();
            drop(inner);
            self.last = self.encode();
            if self.left || all {
                self.yielded = false;
                return Poll::Ready(None);
            }
        }
    }

    /// Encodes the requests that were taken from the queue, and puts back those for which there is
    /// no room. Returns how many were encoded.
    fn encode(&mut self) -> usize {
        let mut encoded = 0;
        let mut refused = Vec::new();
        while self.wire.has_room()
            && self.wire.has_turn()
            && let Some((key, mut req, since)) = self.batch.pop_front()
        {
            self.wire.count_turn();
            let before = self.wire.unwritten();
            let result = match self.matching.assign(&mut req) {
                Some(id) => self.wire.encode(&mut self.codec, req).map(|()| id),
                None => Err(Error::other("the tag belongs to another call")),
            };
            match result {
                Ok(id) => {
                    self.matching.sent(id, Out { key: Some(key), start: self.encoded, since });
                    self.encoded += (self.wire.unwritten() - before) as u64;
                    encoded += 1;
                }
                Err(error) => refused.push((key, ClientError::Codec(cause(error)))),
            }
        }
        self.left = !self.batch.is_empty();
        if self.left || !refused.is_empty() {
            let mut inner = self.shared.lock();
            while let Some((key, req, since)) = self.batch.pop_back() {
                inner.unpop(key, req, since, &mut self.later);
            }
            for (key, error) in refused {
                inner.settle(key, Err(error), &mut self.later);
                inner.free_slot(&mut self.later);
            }
            drop(inner);
            self.later.run();
        }
        encoded
    }

    /// Checks all deadlines. Ready with the end of the connection, or with `None` when the loop has
    /// to go on.
    fn poll_deadlines(&mut self, cx: &mut Context<'_>) -> Poll<Option<LineEnd>> {
        let now = Instant::now();
        if std::mem::take(&mut self.answered) {
            self.progress = now;
        }
        if !self.aged && self.expires.is_some_and(|expires| expires <= now) {
            self.aged = true;
            return Poll::Ready(None);
        }
        let mut next = self.expires.filter(|_| !self.aged);
        let patience = self.shared.patience;
        let mut inner = self.shared.lock();
        if inner.draining.is_some_and(|until| until <= now) {
            return Poll::Ready(Some(LineEnd::DrainedLate));
        }
        next = earlier(next, inner.draining);
        let later = &mut self.later;
        let late = &mut self.late;
        let mut oldest = None;
        self.matching.each_from_oldest(&mut |out| {
            oldest.get_or_insert(out.since);
            let until = after(out.since, patience);
            if out.key.is_some() && until > now {
                next = earlier(next, Some(until));
                return false;
            }
            if let Some(key) = out.key.take() {
                inner.settle(key, Err(ClientError::TimedOut { sent: true }), later);
                *late += 1;
            }
            true
        });
        next = earlier(next, inner.expire(patience, now, later));
        // If every slot is held by a call that has timed out, the connection serves no more calls.
        let poisoned = *late >= inner.slots;
        drop(inner);
        later.run();
        let stalled =
            oldest.map(|oldest| after(oldest.max(self.progress), self.options.stalled_after));
        if poisoned || stalled.is_some_and(|stalled| stalled <= now) {
            return Poll::Ready(Some(LineEnd::Stalled));
        }
        match earlier(next, stalled) {
            Some(next) => self.timer.poll(next, cx).map(|()| None),
            None => {
                self.timer.idle();
                Poll::Pending
            }
        }
    }

    /// Returns the connection, after its calls are settled.
    pub(super) fn into_wire(self) -> Box<Wire> {
        self.wire
    }

    /// Fails the sent calls, because the connection is gone or about to be closed.
    pub(super) fn fail(&mut self, end: &LineEnd, why: &Cause) {
        let written = self.encoded - self.wire.unwritten() as u64;
        let mut inner = self.shared.lock();
        if inner.draining.is_none() {
            inner.gate = Admission::Shut;
        }
        for out in self.matching.drain() {
            if let Some(key) = out.key {
                let error = match end {
                    _ if out.start >= written => ClientError::NotSent(Arc::clone(why)),
                    LineEnd::Desynchronized => ClientError::Desynchronized,
                    _ => ClientError::MayHaveArrived(Arc::clone(why)),
                };
                inner.settle(key, Err(error), &mut self.later);
            }
            inner.free_slot(&mut self.later);
        }
        drop(inner);
        self.later.run();
    }
}
