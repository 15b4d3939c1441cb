//! The counts of a server, and while it is full the order in which its connections make room.

pub(super) mod counts;
pub(super) mod deadlines;
pub(super) mod endpoints;
pub(super) mod entry;
pub(super) mod incidents;
pub(super) mod log;
pub(super) mod max;
pub(super) mod registry;
pub(super) mod shared;
pub(super) mod table;

use std::net::IpAddr;

use ropewalk_middleware::crowd::{Choice, Crowd};
use ropewalk_middleware::{CloseReason, Closing, MakeRoom, Peer, Stats};
use tokio::time::Instant;

use self::counts::Counts;
use self::registry::{Registry, SHARDS};

/// The state that changes when a connection is accepted or closed, under one lock.
#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) counts: Counts,
    /// The counts of each endpoint, by its number.
    pub(super) each: Vec<Tally>,
    /// The addresses that were promised a slot, which is free or will be in a moment. At most as
    /// many as connections wait in the lobbies.
    promised: Vec<Option<IpAddr>>,
    /// The order in which connections make room. Made when the server is full and a connection
    /// waits, and dropped when it is half empty, so that otherwise a connection costs nothing here.
    crowd: Option<Box<Crowd>>,
    /// How many shards of the registry are in the crowd. Each is added in a turn of its own.
    counted: usize,
}

/// The counts of one endpoint. Bytes and frames are those of its closed connections.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) counts: Counts,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) frames_in: u64,
    pub(super) frames_out: u64,
    pub(super) accept_errors: u64,
}

impl Tally {
    /// Adds the counters of a connection.
    pub(super) fn add(&mut self, stats: &Stats) {
        self.bytes_in += stats.bytes_in();
        self.bytes_out += stats.bytes_out();
        self.frames_in += stats.frames_in();
        self.frames_out += stats.frames_out();
    }
}

/// Whether room was made.
#[derive(Debug)]
pub(super) enum MadeRoom {
    Yes,
    /// No. Time alone will not change that before this instant.
    No(Option<Instant>),
    /// Not known yet: ask again in the next turn.
    Undecided,
}

impl Books {
    pub(super) fn is_full(&self, max: usize, promised: bool) -> bool {
        let taken = self.counts.active() + if promised { 0 } else { self.promised.len() as u64 };
        taken >= max as u64
    }

    pub(super) fn enter(&mut self, closing: &Closing) {
        self.counts.accept();
        self.tally(closing.info().listener()).counts.accept();
        if let Some(crowd) = &mut self.crowd {
            crowd.insert(closing.clone());
        }
    }

    /// Returns the crowd if it is no longer needed; the caller drops it after it has released the
    /// lock.
    pub(super) fn leave(
        &mut self,
        closing: &Closing,
        reason: CloseReason,
        max: usize,
    ) -> Option<Box<Crowd>> {
        let refused = closing.is_refused();
        self.counts.close(reason, refused);
        let info = closing.info();
        let tally = self.tally(info.listener());
        tally.counts.close(reason, refused);
        tally.add(&info.stats());
        self.crowd.as_mut()?.remove(closing);
        // It is not made again before half of the limit has been accepted.
        if self.counts.active() < max as u64 / 2 { self.crowd.take() } else { None }
    }

    pub(super) fn tally(&mut self, endpoint: usize) -> &mut Tally {
        if self.each.len() <= endpoint {
            self.each.resize_with(endpoint + 1, Tally::default);
        }
        &mut self.each[endpoint]
    }

    pub(super) fn make_room(
        &mut self,
        max: usize,
        newcomer: &Peer,
        rules: &MakeRoom,
        registry: &Registry,
    ) -> Choice {
        if self.counts.active() > max as u64 {
            // The limit was lowered: one connection less makes no room yet.
            return Choice::Nobody(None);
        }
        let crowd = self.crowd.get_or_insert_with(|| {
            self.counted = 0;
            Box::default()
        });
        if self.counted < SHARDS {
            // A connection that was already told to abort is left out, even if it is still open
            // because its handler blocks: a second abort makes no room.
            registry.each_of(self.counted, |closing| {
                if !closing.is_aborted() {
                    crowd.insert(closing.clone());
                }
            });
            self.counted += 1;
            return Choice::Undecided;
        }
        let host = newcomer.host();
        let coming = self.promised.iter().filter(|promised| **promised == host).count();
        let choice = crowd.make_room(max, host, coming, rules);
        if let Choice::Abort(..) = choice {
            self.promised.push(host);
        }
        choice
    }

    /// Removes a promise to this peer: the slot is taken, or not wanted any more.
    pub(super) fn keep_promise(&mut self, newcomer: &Peer) {
        let host = newcomer.host();
        if let Some(place) = self.promised.iter().position(|promised| *promised == host) {
            self.promised.swap_remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ropewalk_middleware::crowd::Choice;
    use ropewalk_middleware::{Addr, Connection, MakeRoom, Peer, Stream};
    use tokio::time::advance;

    use super::{Books, Registry};
    use crate::memory::MemoryStream;

    #[tokio::test(start_paused = true)]
    async fn one_that_was_told_to_go_and_is_still_there_makes_no_room() {
        let mut books = Books::default();
        let registry = Registry::default();
        let peer = Peer::new(Addr::Memory);
        let connections = [(); 3]
            .map(|()| Connection::new(Stream::boxed(MemoryStream::pair(64).0), peer.clone()));
        for connection in &connections {
            books.enter(&connection.closing());
            registry.add(connection.closing());
        }
        connections[0].closing().abort();
        advance(Duration::from_secs(61)).await;
        let mut told = Vec::new();
        loop {
            match books.make_room(3, &peer, &MakeRoom::new(), &registry) {
                Choice::Undecided => {}
                Choice::Abort(closing, _) => told.push(closing),
                Choice::Nobody(_) => break,
            }
        }
        let aborted_before = told.iter().filter(|closing| closing.is_aborted()).count();
        assert_eq!((told.len(), aborted_before), (2, 0));
    }
}
