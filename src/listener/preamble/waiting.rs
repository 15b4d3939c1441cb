//! Connections that were taken from a socket and have no place for their preamble yet.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use ropewalk_middleware::{Peer, Stream};
use tokio::time::{Instant, Sleep, sleep_until};

use super::counts::PreambleDrop;
use super::fair::newest_of_most;
use super::log::Log;
use super::places::{Entered, Preambles};

/// The most of one listener, and which part of all places: they have descriptors as well.
const MOST: usize = 64;
const PART: usize = 4;

/// How long others may wait in the socket because all places here are taken, while those here get on only by others being
/// dropped. After that they are taken, for behind those of a crowded address there may be some that have a right to a place.
const PATIENCE: Duration = Duration::from_millis(250);

/// For so long after one had to be dropped for another one they are taken for a crowd that comes to nothing.
const FRUITLESS: Duration = Duration::from_secs(1);

/// The connections of one listener that wait for a place, in the order in which they came.
pub(super) struct Waiting {
    queue: VecDeque<Newcomer>,
    most: usize,
    /// Since when others may wait in the socket because these were too many.
    behind_since: Option<Instant>,
    /// When a preamble was last dropped for one that had waited.
    dropped: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

struct Newcomer {
    stream: Stream,
    peer: Peer,
    /// When there may be a place for it.
    then: Instant,
}

impl Waiting {
    /// For a server with so many places.
    pub(super) fn new(places: usize) -> Self {
        let most = (places / PART).clamp(1, MOST);
        Self { queue: VecDeque::new(), most, behind_since: None, dropped: None, timer: None }
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn push(&mut self, (stream, peer): (Stream, Peer)) {
        let now = Instant::now();
        self.queue.push_back(Newcomer { stream, peer, then: now });
    }

    /// The first that has a place, if any has one by now.
    pub(super) fn enter(&mut self, preambles: &Preambles, log: &Log) -> Option<(Stream, Peer, Entered)> {
        let (now, has_room) = (Instant::now(), preambles.has_room());
        for (place, newcomer) in self.queue.iter_mut().enumerate() {
            if newcomer.then > now && !has_room {
                continue;
            }
            match preambles.enter(&newcomer.peer, log) {
                Ok(entered) => {
                    if entered.made_room {
                        self.dropped = Some(now);
                    }
                    let Newcomer { stream, peer, .. } = self.queue.remove(place)?;
                    return Some((stream, peer, entered));
                }
                Err(then) => newcomer.then = then,
            }
        }
        None
    }

    /// Whether one more may be taken from the socket. If there are too many by then, one is turned away.
    pub(super) fn has_space(&mut self, preambles: &Preambles, log: &Log) -> bool {
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

    /// None waits in the socket.
    pub(super) fn caught_up(&mut self) {
        self.behind_since = None;
    }

    /// The newest of the address with the most, here and under way.
    fn turn_away(&mut self, preambles: &Preambles, log: &Log) {
        let hosts = self.queue.iter().map(|newcomer| newcomer.peer.host()).enumerate();
        if let Some(newcomer) =
            newest_of_most(hosts, |host| preambles.of(host)).and_then(|place| self.queue.remove(place))
        {
            drop(newcomer.stream);
            preambles.lost(PreambleDrop::Share);
            log.dropped(newcomer.peer.addr(), PreambleDrop::Share);
        }
    }

    /// Has the task woken when it is time to look again.
    pub(super) fn poll_time<T>(&mut self, cx: &mut Context<'_>) -> Poll<T> {
        let now = Instant::now();
        let patience = self.behind_since.map(|since| since + PATIENCE).filter(|until| *until > now);
        let asks = self.queue.iter().map(|newcomer| newcomer.then);
        let Some(until) = asks.chain(patience).min() else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        if timer.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}
