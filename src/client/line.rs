//! One connection and its calls: the loop that reads answers, writes requests, and keeps the
//! deadlines.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::time::Instant;
use tokio_util::codec::{Decoder, Encoder};

use super::Options;
use super::error::{Cause, ClientError, cause};
use super::gather::{Gather, Part, TakePush};
use super::matching::{Match, Out, Whose};
use super::shared::{Gate, Later, Shared, earlier};
use crate::wire::{Timer, Wire, after};
use ropewalk_middleware::{BoxError, Error};

/// Requests that are taken under one lock.
const BATCH: usize = 256;

/// Why there is no connection any more.
#[derive(Debug)]
pub(super) enum End {
    /// All is done.
    Drained,
    /// The time to drain is over.
    DrainedLate,
    /// Old enough, and no answer is missing.
    Aged,
    /// The server closed it.
    Closed,
    Broken(Error),
    Desynchronized,
    /// An answer is over its bounds.
    OverMax,
    /// The server does not answer.
    Stalled,
}

impl End {
    pub(super) fn text(&self) -> &'static str {
        match self {
            Self::Drained | Self::DrainedLate => "the client was drained",
            Self::Aged => "the connection was replaced for its age",
            Self::Closed => "the server has closed the connection",
            Self::Broken(_) => "the connection broke",
            Self::Desynchronized => {
                "the server sent what nobody had asked for; what it sends first is for `prepare`"
            }
            Self::OverMax => "an answer is larger than max_answer allows",
            Self::Stalled => "the server gave no answer for too long",
        }
    }
}

/// One connection and its calls.
pub(super) struct Line<C: Decoder, M, G: Gather<C::Item>, H, Req> {
    pub(super) shared: Arc<Shared<Req, G::Answer>>,
    options: Options,
    codec: C,
    pub(super) wire: Box<Wire>,
    matching: M,
    gather: G,
    pushes: H,
    /// Bytes that were encoded on this connection, in all.
    encoded: u64,
    batch: VecDeque<(usize, Req, Instant)>,
    answers: Vec<(Option<usize>, G::Answer)>,
    later: Later<Req, G::Answer>,
    /// A crowd has had its turn to call.
    yielded: bool,
    /// How many calls were encoded the last time.
    last: usize,
    /// Calls are queued that there was no room or no turn for.
    left: bool,
    /// Answers have come since that was last noted.
    answered: bool,
    /// When the last answers came.
    progress: Instant,
    /// So many calls that are out are out of time.
    late: usize,
    /// From when on it is to be replaced; no more calls are taken then.
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
        shared: Arc<Shared<Req, G::Answer>>,
        options: Options,
        (codec, wire): (C, Box<Wire>),
        (matching, gather, pushes): (M, G, H),
    ) -> Self {
        let now = Instant::now();
        Self {
            shared,
            options,
            codec,
            // What the preparation has left.
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

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.shared.register(cx);
        loop {
            if !self.wire.has_turn() {
                // A server that always has more to say must not keep calls from their deadlines.
                if let Poll::Ready(Some(end)) = self.poll_deadlines(cx) {
                    return Poll::Ready(end);
                }
                ready!(self.wire.poll_turn(cx));
            }
            if let Err(end) = self.read() {
                return Poll::Ready(end);
            }
            if self.wire.has_ended() {
                return Poll::Ready(End::Closed);
            }
            if let Some(end) = ready!(self.poll_write(cx)) {
                return Poll::Ready(end);
            }
            // It reads while a write waits: two peers that both write first must not wait for each
            // other.
            match self.wire.poll_more(true, cx) {
                Poll::Ready(Ok(())) => continue,
                Poll::Ready(Err(error)) => return Poll::Ready(End::Broken(error)),
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

    /// Delivers the answers that were read, up to a frame that isn't one, or to the end of the
    /// turn.
    fn read(&mut self) -> Result<(), End> {
        let mut result = Ok(());
        // Frames that complete no answer count as well.
        while self.wire.has_turn() && result.is_ok() {
            match self.wire.decode(&mut self.codec) {
                Some(Ok(frame)) => result = self.take(frame),
                Some(Err(error)) => result = Err(End::Broken(error)),
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
                self.later.drop(super::shared::Slot::Done(Ok(answer)));
            }
            inner.free_place(&mut self.later);
        }
        drop(inner);
        self.later.run();
        result
    }

    /// Finds the call that a frame belongs to.
    fn take(&mut self, frame: C::Item) -> Result<(), End> {
        let at = self.wire.taken();
        let part = self.gather.part(&frame);
        let whose = if part == Part::Push { Whose::Push } else { self.matching.find(&frame) };
        match whose {
            Whose::Push => {
                self.gather.pass(at);
                self.pushes.push(frame);
            }
            Whose::Nobody => return Err(End::Desynchronized),
            Whose::Call(id) => {
                if let Some(answer) = self.gather.add(frame, part, at).map_err(|_| End::OverMax)?
                    && let Some(out) = self.matching.done(id)
                {
                    self.answers.push((out.key, answer));
                }
            }
        }
        Ok(())
    }

    /// Encodes what is queued, as far as there is room. Ready with the end when all is done.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Option<End>> {
        loop {
            let mut inner = self.shared.look();
            if self.aged || inner.queue.is_empty() {
                self.left = false;
                let over = inner.queue.is_empty()
                    && (inner.draining.is_some() || self.shared.is_orphaned());
                let end = if over { Some(End::Drained) } else { self.aged.then_some(End::Aged) };
                return Poll::Ready(end.filter(|_| self.matching.len() == 0));
            }
            let crowd = self.last > 1 || self.matching.len() > 0;
            if crowd
                && inner.queue.len() < inner.places
                && !std::mem::replace(&mut self.yielded, true)
            {
                // The caller that woke it may have been the first of many: the others get their
                // turn first.
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

    /// Encodes what was taken from the queue; what there is no room for goes back. Returns how many
    /// calls it was.
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
                None => Err(Error::other("the tag is that of another call")),
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
                inner.free_place(&mut self.later);
            }
            drop(inner);
            self.later.run();
        }
        encoded
    }

    /// Looks at whatever may be late. Ready with the end, or with `None` when something is to be
    /// done.
    fn poll_deadlines(&mut self, cx: &mut Context<'_>) -> Poll<Option<End>> {
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
            return Poll::Ready(Some(End::DrainedLate));
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
        // One whose every place is held by a call that is out of time is of no use to anybody.
        let poisoned = *late >= inner.places;
        drop(inner);
        later.run();
        let stalled =
            oldest.map(|oldest| after(oldest.max(self.progress), self.options.stalled_after));
        if poisoned || stalled.is_some_and(|stalled| stalled <= now) {
            return Poll::Ready(Some(End::Stalled));
        }
        match earlier(next, stalled) {
            Some(next) => self.timer.poll(next, cx).map(|()| None),
            None => {
                self.timer.idle();
                Poll::Pending
            }
        }
    }

    /// Its connection, when its calls are settled.
    pub(super) fn into_wire(self) -> Box<Wire> {
        self.wire
    }

    /// The connection is gone, or about to be: so are the calls that are out.
    pub(super) fn fail(&mut self, end: &End, why: &Cause) {
        let written = self.encoded - self.wire.unwritten() as u64;
        let mut inner = self.shared.lock();
        if inner.draining.is_none() {
            inner.gate = Gate::Shut;
        }
        for out in self.matching.drain() {
            if let Some(key) = out.key {
                let error = match end {
                    _ if out.start >= written => ClientError::NotSent(Arc::clone(why)),
                    End::Desynchronized => ClientError::Desynchronized,
                    _ => ClientError::MayHaveArrived(Arc::clone(why)),
                };
                inner.settle(key, Err(error), &mut self.later);
            }
            inner.free_place(&mut self.later);
        }
        drop(inner);
        self.later.run();
    }
}
