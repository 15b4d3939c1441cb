//! The lobby, in which accepted connections wait while the server is full.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ropewalk_middleware::{Connection, Peer, Stream};
use rustix::process::{Resource, getrlimit};
use tokio::time::{Instant, Sleep};

use crate::listener::preamble::{newest_of_most, wake_at};
use crate::server::books::MadeRoom;
use crate::server::books::shared::Shared;

/// The most connections that wait here. The others stay in the backlog, unless one of these waits
/// too long.
const PLACES: usize = 64;

/// When one has waited for this long, more are accepted from the backlog, because connections with
/// a right to a slot may stand behind those of a crowded address. For each one accepted, the
/// address with the most connections here loses one.
const PATIENCE: Duration = Duration::from_millis(250);

/// The longest time until room is asked for again, because shares change as connections come and
/// go.
const AGAIN: Duration = Duration::from_millis(100);

/// How long an aborted connection may take to be gone before another one is chosen. Its handler may
/// block.
const HELD_UP: Duration = Duration::from_secs(1);

/// An accepted connection, and the number of its endpoint.
pub(super) type Accepted = (Stream, Peer, usize);

/// The connections of one accept loop that wait for room.
pub(in crate::server) struct Lobby {
    waiting: VecDeque<LobbyEntry>,
    places: usize,
    /// Set to the next time to look again, if there is one.
    timer: Option<Pin<Box<Sleep>>>,
    shared: Arc<Shared>,
}

struct LobbyEntry {
    accepted: Accepted,
    since: Instant,
    /// The next time to ask for room.
    ask: Instant,
    /// Room was promised: an aborted connection will free a slot for it.
    promised: bool,
}

impl Lobby {
    /// Makes the lobby of one accept loop; there are `lobbies` of them in total.
    pub(in crate::server) fn new(lobbies: usize, shared: &Arc<Shared>) -> Self {
        Self {
            waiting: VecDeque::new(),
            places: places(lobbies, shared.max()),
            timer: None,
            shared: Arc::clone(shared),
        }
    }

    pub(in crate::server) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(in crate::server) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether room was made for one of them.
    pub(super) fn has_promise(&self) -> bool {
        self.waiting.iter().any(|waiting| waiting.promised)
    }

    pub(in crate::server) fn push(&mut self, accepted: Accepted) {
        let now = Instant::now();
        self.waiting.push_back(LobbyEntry { accepted, since: now, ask: now, promised: false });
    }

    /// Takes the next connection to admit: one that was promised room, or else the one that has
    /// waited longest.
    pub(in crate::server) fn next(&mut self) -> Option<Accepted> {
        let first = self.waiting.iter().position(|waiting| waiting.promised).unwrap_or(0);
        let waiting = self.waiting.remove(first)?;
        if waiting.promised {
            self.shared.keep_promise(&waiting.accepted.1);
        }
        Some(waiting.accepted)
    }

    /// Asks for room for each connection that is due. False if the answer for some has to wait for
    /// the next turn.
    pub(in crate::server) fn make_room(&mut self, mut ask: impl FnMut(&Peer) -> MadeRoom) -> bool {
        let now = Instant::now();
        for waiting in &mut self.waiting {
            if waiting.ask > now {
                continue;
            }
            if std::mem::take(&mut waiting.promised) {
                // The aborted connection is still not gone.
                self.shared.keep_promise(&waiting.accepted.1);
            }
            match ask(&waiting.accepted.1) {
                MadeRoom::Yes => (waiting.promised, waiting.ask) = (true, now + HELD_UP),
                MadeRoom::No(next) => {
                    waiting.ask = next.map_or(now + AGAIN, |next| next.min(now + AGAIN));
                }
                MadeRoom::Undecided => return false,
            }
        }
        self.turn_away();
        true
    }

    /// Whether another one may be accepted from the backlog.
    pub(super) fn has_space(&self) -> bool {
        self.waiting.len() < self.places
            || self.oldest().is_some_and(|since| since + PATIENCE <= Instant::now())
    }

    /// Since when the oldest one without a promise has waited.
    fn oldest(&self) -> Option<Instant> {
        self.waiting.iter().find(|waiting| !waiting.promised).map(|waiting| waiting.since)
    }

    /// If there are too many, closes the newest connection of the address with the most.
    fn turn_away(&mut self) {
        if self.waiting.len() <= self.places {
            return;
        }
        let without = self.waiting.iter().enumerate().filter(|(_, waiting)| !waiting.promised);
        let hosts = without.map(|(place, waiting)| (place, waiting.accepted.1.host()));
        if let Some(waiting) =
            newest_of_most(hosts, |_| 0).and_then(|place| self.waiting.remove(place))
        {
            let (stream, peer, endpoint) = waiting.accepted;
            self.shared.turn_away(Connection::accepted(stream, peer, endpoint));
        }
    }

    /// Wakes the task when it is time to look again. Always pending.
    pub(super) fn poll_time<T>(&mut self, cx: &mut Context<'_>) -> Poll<T> {
        let full = self.waiting.len() >= self.places;
        let patience = self
            .oldest()
            .filter(|_| full)
            .map(|since| since + PATIENCE)
            .filter(|until| *until > Instant::now());
        let asks = self.waiting.iter().map(|waiting| waiting.ask);
        let Some(until) = asks.chain(patience).min() else { return Poll::Pending };
        wake_at(&mut self.timer, until, cx);
        Poll::Pending
    }
}

/// The size of each lobby: together they use at most a quarter of the descriptors that a full
/// server leaves free.
fn places(lobbies: usize, max_connections: usize) -> usize {
    let descriptors =
        getrlimit(Resource::Nofile).current.and_then(|limit| usize::try_from(limit).ok());
    let left = descriptors.unwrap_or(usize::MAX).saturating_sub(max_connections);
    (left / 4 / lobbies.max(1)).clamp(1, PLACES)
}

impl Drop for Lobby {
    fn drop(&mut self) {
        let promised = self.waiting.iter().filter(|waiting| waiting.promised);
        promised.for_each(|waiting| self.shared.keep_promise(&waiting.accepted.1));
    }
}
