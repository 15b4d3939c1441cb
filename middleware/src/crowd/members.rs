use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tokio::time::Instant;

use super::queue::{Candidate, CandidateQueue};
use super::rules::MakeRoom;
use crate::{CloseReason, Closing};

/// How many connections are examined again in one turn because their peers have sent a frame, or
/// bytes have moved, since they were last examined.
const LOOKS: usize = 256;

/// How many turns a choice may take that can't be postponed, so that its cost doesn't grow with the
/// number of connections.
const TURNS: usize = 8;

/// The connections under a limit, in the order in which they make room by [`MakeRoom`].
///
/// It is told only when connections open and close. Its data about a connection is therefore a
/// bound: the peer may have sent a frame since, and bytes may have moved. This is checked when the
/// connection is first in line; if so, it is moved back. So a choice needs no scan: its cost beyond
/// a few steps in a tree is paid for by frames and bytes.
#[derive(Debug, Default)]
pub struct Crowd {
    members: HashMap<u64, Candidate>,
    everyone: CandidateQueue,
    addresses: HashMap<IpAddr, CandidateQueue>,
    /// Addresses by rank: the last one has the most connections of those with silent connections,
    /// if there are any.
    ranks: BTreeSet<(bool, usize, IpAddr)>,
}

/// Which connection makes room.
#[derive(Debug)]
pub enum Choice {
    /// This connection, which has to be aborted for this reason. The crowd has removed it already.
    Abort(Closing, CloseReason),
    /// No connection. The answer stays the same until this instant, as long as no connection is
    /// added or removed.
    Nobody(Option<Instant>),
    /// Not decided: ask again after other tasks have had their turns.
    Undecided,
}

/// The turn is over.
struct TurnOver;

impl Crowd {
    /// Adds a connection. Adding it again changes nothing.
    pub fn insert(&mut self, closing: Closing) {
        let id = closing.id();
        let host = closing.peer().host();
        let idle_since = closing.idle_since();
        if self.members.contains_key(&id) {
            return;
        }
        let member = Candidate { closing, idle_since };
        self.change(host, |queue| queue.insert(id, &member, true));
        self.members.insert(id, member);
    }

    /// Removes a connection.
    pub fn remove(&mut self, closing: &Closing) {
        drop(self.take(closing.id()));
    }

    /// Finds a connection that has to be aborted for a peer of the address `newcomer`, from which
    /// `coming` others are expected.
    pub fn make_room(
        &mut self,
        cap: usize,
        newcomer: Option<IpAddr>,
        coming: usize,
        rules: &MakeRoom,
    ) -> Choice {
        self.choose(cap, newcomer, coming, rules).unwrap_or(Choice::Undecided)
    }

    /// The same for a newcomer that can't wait for another turn. If bytes have moved on too many
    /// connections to examine all of them, it chooses only by the share of an address, the longest
    /// idle connection as far as is known, and never a connection for being silent or idle.
    pub fn make_room_now(
        &mut self,
        cap: usize,
        newcomer: Option<IpAddr>,
        rules: &MakeRoom,
    ) -> Choice {
        for _ in 0..TURNS {
            match self.make_room(cap, newcomer, 0, rules) {
                Choice::Undecided => {}
                decided => return decided,
            }
        }
        let share = if rules.share { self.share(cap, newcomer) } else { usize::MAX };
        let crowded = self.crowded(newcomer, 0, share);
        let first = crowded.and_then(|host| self.addresses.get(&host)?.idle.first().copied());
        first.map_or(Choice::Nobody(None), |(_, id)| self.abort(id, CloseReason::MadeRoomShare))
    }

    fn choose(
        &mut self,
        cap: usize,
        newcomer: Option<IpAddr>,
        coming: usize,
        rules: &MakeRoom,
    ) -> Result<Choice, TurnOver> {
        let now = Instant::now();
        let mut looks = LOOKS;
        let share = if rules.share { self.share(cap, newcomer) } else { usize::MAX };
        let mut next: Option<Instant> = None;
        let mut not_before = |then: Instant| next = Some(next.map_or(then, |next| next.min(then)));
        if let Some(after) = rules.silent {
            while let Some(&(true, size, host)) = self.ranks.last()
                && size > share
            {
                if let Some(id) = self.longest_silent(Some(host), &mut looks)? {
                    return Ok(self.abort(id, CloseReason::MadeRoomSilent));
                }
            }
            if let Some(id) = self.longest_silent(None, &mut looks)? {
                match self.members.get(&id).map(|member| later(member.closing.opened(), after)) {
                    Some(then) if then > now => not_before(then),
                    _ => return Ok(self.abort(id, CloseReason::MadeRoomSilent)),
                }
            }
        }
        if let Some(after) = rules.idle {
            while let Some(&(since, id)) = self.everyone.idle.first() {
                if later(since, after) > now {
                    not_before(later(since, after));
                    break;
                }
                if self.has_moved(id, &mut looks)? {
                    continue;
                }
                if self.members.get(&id).is_none_or(|member| member.closing.is_quiet()) {
                    return Ok(self.abort(id, CloseReason::MadeRoomIdle));
                }
                // Something is pending, so the idle time counts anew from now.
                self.put_back(id, now);
            }
        }
        if let Some(host) = self.crowded(newcomer, coming, share) {
            while let Some(&(_, id)) =
                self.addresses.get(&host).and_then(|queue| queue.idle.first())
            {
                if !self.has_moved(id, &mut looks)? {
                    return Ok(self.abort(id, CloseReason::MadeRoomShare));
                }
            }
        }
        Ok(Choice::Nobody(next))
    }

    /// How many connections each address may have: rounded down, and at least one, so that two
    /// addresses don't disconnect each other in turn.
    fn share(&self, cap: usize, newcomer: Option<IpAddr>) -> usize {
        let another = newcomer.is_some_and(|host| !self.addresses.contains_key(&host));
        (cap / (self.addresses.len() + usize::from(another)).max(1)).max(1)
    }

    /// The address that has to make room for a newcomer whose address is below its share.
    fn crowded(&self, newcomer: Option<IpAddr>, coming: usize, share: usize) -> Option<IpAddr> {
        newcomer.filter(|host| self.size(*host) + coming < share).and_then(|_| self.largest(share))
    }

    fn size(&self, host: IpAddr) -> usize {
        self.addresses.get(&host).map_or(0, |queue| queue.rank().1)
    }

    /// The address with the most connections, if that is more than its share.
    fn largest(&self, share: usize) -> Option<IpAddr> {
        // Addresses with silent connections come after the others, and each address has at least
        // one connection.
        let others = ..(true, 0, IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let largest = [self.ranks.last(), self.ranks.range(others).next_back()];
        let largest = largest.into_iter().flatten().max_by_key(|(_, size, _)| *size);
        largest.filter(|(_, size, _)| *size > share).map(|(.., host)| *host)
    }

    /// The oldest connection without a first frame: of this address, or of all.
    fn longest_silent(
        &mut self,
        host: Option<IpAddr>,
        looks: &mut usize,
    ) -> Result<Option<u64>, TurnOver> {
        loop {
            let queue = match host {
                Some(host) => self.addresses.get(&host),
                None => Some(&self.everyone),
            };
            let Some(&id) = queue.and_then(|queue| queue.silent.first()) else { return Ok(None) };
            look(looks)?;
            let Some(member) = self.members.get(&id).filter(|member| !member.closing.is_silent())
            else {
                return Ok(Some(id));
            };
            // Its peer has sent a frame, or it is not a connection of frames.
            let host = member.closing.peer().host();
            self.change(host, |queue| {
                queue.silent.remove(&id);
            });
        }
    }

    /// Whether bytes have moved since it was last examined; if so, it is moved back.
    fn has_moved(&mut self, id: u64, looks: &mut usize) -> Result<bool, TurnOver> {
        look(looks)?;
        let Some(member) = self.members.get(&id) else { return Ok(false) };
        let idle_since = member.closing.idle_since();
        let moved = idle_since > member.idle_since;
        if moved {
            self.put_back(id, idle_since);
        }
        Ok(moved)
    }

    fn put_back(&mut self, id: u64, idle_since: Instant) {
        let Some(mut member) = self.members.remove(&id) else { return };
        let host = member.closing.peer().host();
        let before = member.idle_since;
        member.idle_since = idle_since;
        self.change(host, |queue| {
            queue.idle.remove(&(before, id));
            queue.idle.insert((idle_since, id));
        });
        self.members.insert(id, member);
    }

    fn abort(&mut self, id: u64, reason: CloseReason) -> Choice {
        match self.take(id) {
            Some(member) => Choice::Abort(member.closing, reason),
            None => Choice::Undecided,
        }
    }

    fn take(&mut self, id: u64) -> Option<Candidate> {
        let member = self.members.remove(&id)?;
        self.change(member.closing.peer().host(), |queue| queue.remove(id, &member));
        Some(member)
    }

    /// Changes the queue of all, and that of an address.
    fn change(&mut self, host: Option<IpAddr>, change: impl Fn(&mut CandidateQueue)) {
        change(&mut self.everyone);
        let Some(host) = host else { return };
        let queue = self.addresses.entry(host).or_default();
        let before = queue.rank();
        change(queue);
        let after = queue.rank();
        if before != after {
            self.ranks.remove(&(before.0, before.1, host));
            if after.1 == 0 {
                self.addresses.remove(&host);
            } else {
                self.ranks.insert((after.0, after.1, host));
            }
        }
    }
}

fn look(looks: &mut usize) -> Result<(), TurnOver> {
    *looks = looks.checked_sub(1).ok_or(TurnOver)?;
    Ok(())
}

/// `start + after`; far in the future if that is beyond the clock's range.
fn later(start: Instant, after: Duration) -> Instant {
    start.checked_add(after).unwrap_or_else(|| start + Duration::from_secs(365 * 24 * 3600))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};
    use std::time::Duration;

    use tokio::io::AsyncWriteExt;
    use tokio::time::advance;

    use super::{Choice, Crowd, LOOKS, TURNS};
    use crate::{CloseReason, Connection, MakeRoom, Peer, Stream};

    #[tokio::test(start_paused = true)]
    async fn a_choice_that_cannot_be_put_off_looks_at_a_bounded_number_of_connections() {
        const MANY: usize = 20 * LOOKS * TURNS;
        let host = |n| IpAddr::V4(Ipv4Addr::new(192, 0, 2, n));
        let connection = |_| {
            let peer = Peer::new(SocketAddr::new(host(1), 1));
            Connection::new(Stream::from_io(tokio::io::empty()), peer)
        };
        let mut crowded: Vec<_> = (0..MANY).map(connection).collect();
        let mut crowd = Crowd::default();
        crowded.iter().for_each(|connection| crowd.insert(connection.closing()));
        advance(Duration::from_secs(1)).await;
        for connection in &mut crowded {
            connection.write_all(b"x").await.unwrap();
        }
        let choice = crowd.make_room_now(MANY, Some(host(2)), &MakeRoom::new());
        assert!(matches!(choice, Choice::Abort(_, CloseReason::MadeRoomShare)), "{choice:?}");
        let looked_at = crowd
            .members
            .values()
            .filter(|member| member.idle_since == member.closing.idle_since())
            .count();
        assert!(looked_at <= LOOKS * TURNS, "{looked_at}");
    }
}
