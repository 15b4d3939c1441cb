//! Connections that were accepted from a socket and have no slot for their preamble yet.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use ropewalk_middleware::{Peer, Stream};
use tokio::time::{Instant, Sleep, sleep_until};

use super::counts::PreambleDrop;
use super::fair::newest_of_most;
use super::log::PreambleLog;
use super::slots::{Admitted, Preambles};

/// The most waiting connections of one listener: `MOST`, or one for each `PART` slots if that is
/// less. They hold descriptors as well.
const MOST: usize = 64;
const PART: usize = 4;

/// How long others may wait in the socket because this queue is full, while connections leave it
/// only when preambles are dropped for them. After that time more are accepted, because behind the
/// connections of a crowded address there may be some that are entitled to a slot.
const PATIENCE: Duration = Duration::from_millis(250);

/// For this long after a preamble was dropped for a waiting connection, the waiting ones count as a
/// crowd without progress.
const FRUITLESS: Duration = Duration::from_secs(1);

/// The connections of one listener that wait for a slot, in the order of arrival.
pub(super) struct Newcomers {
    queue: VecDeque<Newcomer>,
    most: usize,
    /// When others may have begun to wait in the socket because this queue was full.
    behind_since: Option<Instant>,
    /// When a preamble was last dropped for one that had waited.
    dropped: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

struct Newcomer {
    stream: Stream,
    peer: Peer,
    /// When a slot may be free for it.
    then: Instant,
}

impl Newcomers {
    /// A queue for a server with this many slots.
    pub(super) fn new(slots: usize) -> Self {
        let most = (slots / PART).clamp(1, MOST);
        Self { queue: VecDeque::new(), most, behind_since: None, dropped: None, timer: None }
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn push(&mut self, (stream, peer): (Stream, Peer)) {
        let now = Instant::now();
        self.queue.push_back(Newcomer { stream, peer, then: now });
    }

    /// The first connection for which there is a slot now, with its slot.
    pub(super) fn enter(
        &mut self,
        preambles: &Preambles,
        log: &PreambleLog,
    ) -> Option<(Stream, Peer, Admitted)> {
        let now = Instant::now();
        let has_room = preambles.has_room();
        for (index, newcomer) in self.queue.iter_mut().enumerate() {
            if newcomer.then > now && !has_room {
                continue;
            }
            match preambles.enter(&newcomer.peer, log) {
                Ok(entered) => {
                    if entered.made_room {
                        self.dropped = Some(now);
                    }
                    let Newcomer { stream, peer, .. } = self.queue.remove(index)?;
                    return Some((stream, peer, entered));
                }
                Err(then) => newcomer.then = then,
            }
        }
        None
    }

    /// Whether one more may be accepted from the socket. If the queue is over its limit, one is
    /// dropped.
    pub(super) fn has_space(&mut self, preambles: &Preambles, log: &PreambleLog) -> bool {
        let now = Instant::now();
        if self.queue.len() < self.most {
            return true;
        }
        if self.queue.len() > self.most {
            self.turn_away(preambles, log);
        }
        let since = *self.behind_since.get_or_insert(now);
        since + PATIENCE <= now && self.dropped.is_some_and(|dropped| now < dropped + FRUITLESS)
    }

    /// Notes that no connection waits in the socket.
    pub(super) fn caught_up(&mut self) {
        self.behind_since = None;
    }

    /// Drops the newest connection of the address with the most, counting waiting ones and
    /// preambles under way.
    fn turn_away(&mut self, preambles: &Preambles, log: &PreambleLog) {
        let hosts = self.queue.iter().map(|newcomer| newcomer.peer.host()).enumerate();
        if let Some(newcomer) = newest_of_most(hosts, |host| preambles.of(host))
            .and_then(|index| self.queue.remove(index))
        {
            drop(newcomer.stream);
            preambles.lost(PreambleDrop::Share);
            log.dropped(newcomer.peer.addr(), PreambleDrop::Share);
        }
    }

    /// Has the task woken when it is time to try again.
    pub(super) fn poll_time<T>(&mut self, cx: &mut Context<'_>) -> Poll<T> {
        let now = Instant::now();
        let patience = self.behind_since.map(|since| since + PATIENCE).filter(|until| *until > now);
        let asks = self.queue.iter().map(|newcomer| newcomer.then);
        let Some(until) = asks.chain(patience).min() else { return Poll::Pending };
        wake_at(&mut self.timer, until, cx);
        Poll::Pending
    }
}

/// Has the task woken at this moment, by a timer that is made for the first one.
pub(crate) fn wake_at(timer: &mut Option<Pin<Box<Sleep>>>, until: Instant, cx: &mut Context<'_>) {
    let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
    if timer.deadline() != until {
        timer.as_mut().reset(until);
    }
    if timer.as_mut().poll(cx).is_ready() {
        cx.waker().wake_by_ref();
    }
}
