//! The preambles under way, and the choice of one that makes room when there are too many.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::counts::{PreambleDrop, PreambleEnd, PreambleOwner};

/// A peer that was silent for this long makes room for any other, because an honest peer sends
/// something much earlier.
const LONG_SILENT: Duration = Duration::from_secs(1);

/// While fewer than one in this many preambles are silent, an address above its share makes room
/// before them.
const SILENT_PART: usize = 4;

/// The least age at which a preamble makes room for another one of its own address: of a silent
/// one, and of one whose peer has sent something. Data sent right after connecting is noticed
/// within the first; a handshake usually takes less than the second. So when a crowd of one address
/// reconnects at once, each waits a little instead of ending the handshake of another one.
const NEW: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(250)];

/// The stage of a preamble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PreambleStage {
    /// The peer has sent nothing yet of the current step.
    Silent = 0,
    /// The peer has sent something.
    Spoken = 1,
    /// All steps are done, and the connection waits to be accepted. It is not dropped any more.
    Passed = 2,
}

/// Whether one more preamble may begin.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PreambleRoom {
    /// Yes. If one was dropped for it, the reason.
    Made(Option<PreambleDrop>),
    /// Not before this instant, unless another one ends.
    NotBefore(Instant),
}

#[derive(Debug)]
struct CrowdEntry {
    host: Option<IpAddr>,
    owner: PreambleOwner,
    stage: PreambleStage,
    /// When the current step began.
    since: Instant,
    /// Tells its task that the preamble was dropped, and why.
    drop: oneshot::Sender<PreambleDrop>,
}

/// The silent preambles, and those whose peers have sent something: the oldest first, by age and
/// number.
type Stages = [BTreeSet<(Instant, u64)>; 2];

/// The preambles of one address.
#[derive(Debug, Default)]
struct Group {
    len: usize,
    stages: Stages,
}

impl Group {
    /// The keys by which addresses are compared, for either stage: the number of preambles, if any
    /// is at that stage.
    fn ranks(&self) -> [Option<usize>; 2] {
        [0, 1].map(|stage: usize| (!self.stages[stage].is_empty()).then_some(self.len))
    }
}

/// The preambles under way of one server. Each call costs a few steps in a tree, independent of
/// their number.
#[derive(Debug, Default)]
pub(super) struct PreambleCrowd {
    members: HashMap<u64, CrowdEntry>,
    groups: HashMap<Option<IpAddr>, Group>,
    all: Stages,
    /// Addresses by the number of their preambles, for either stage.
    ranks: [BTreeSet<(usize, IpAddr)>; 2],
    /// How many have passed, for each service.
    passed: HashMap<usize, usize>,
    last_id: u64,
}

impl PreambleCrowd {
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn of(&self, host: Option<IpAddr>) -> usize {
        self.groups.get(&host).map_or(0, |group| group.len)
    }

    /// How many may be under way for one more of this service: those that have passed for other
    /// services don't count.
    pub(super) fn limit(&self, max: usize, service: usize) -> usize {
        max + self
            .passed
            .iter()
            .filter(|(of, _)| **of != service)
            .map(|(_, passed)| passed)
            .sum::<usize>()
    }

    /// Adds a preamble, which is silent. The receiver is notified when it is dropped.
    pub(super) fn insert(
        &mut self,
        host: Option<IpAddr>,
        owner: PreambleOwner,
        now: Instant,
    ) -> (u64, oneshot::Receiver<PreambleDrop>) {
        self.last_id += 1;
        let (drop, dropped) = oneshot::channel();
        self.add(
            self.last_id,
            CrowdEntry { host, owner, stage: PreambleStage::Silent, since: now, drop },
        );
        (self.last_id, dropped)
    }

    /// Changes the stage of a preamble, and the address to which it counts. Returns false if it has
    /// been dropped.
    pub(super) fn set(
        &mut self,
        id: u64,
        stage: PreambleStage,
        host: Option<IpAddr>,
        now: Instant,
    ) -> bool {
        let Some(member) = self.take(id) else { return false };
        let since = if stage == PreambleStage::Silent { now } else { member.since };
        self.add(id, CrowdEntry { host, stage, since, ..member });
        true
    }

    /// Removes a preamble that has ended. Returns false if it had been dropped.
    pub(super) fn remove(&mut self, id: u64) -> bool {
        self.take(id).is_some()
    }

    /// Drops the oldest silent preamble, if there is any: that of the address with the most, if
    /// this has more than its share.
    pub(super) fn drop_silent(&mut self, max: usize) -> bool {
        let share = (max / self.groups.len().max(1)).max(1);
        let largest =
            self.ranks[PreambleStage::Silent as usize].last().filter(|(len, _)| *len > share);
        let group = largest.and_then(|(_, host)| self.groups.get(&Some(*host)));
        let silent = group.map_or(&self.all, |group| &group.stages)[PreambleStage::Silent as usize]
            .first()
            .copied();
        silent.is_some_and(|(_, id)| self.drop(id, PreambleDrop::Descriptors))
    }

    /// Drops the preambles of this endpoint that have been silent for `after`. Returns how many,
    /// and when the next one is due.
    pub(super) fn end_silent(
        &mut self,
        owner: &PreambleOwner,
        after: Duration,
        now: Instant,
    ) -> (usize, Option<Instant>) {
        // Only those of one endpoint, because the others may go on: one that is removed has its
        // last call alone.
        let silent = self.all[PreambleStage::Silent as usize].iter().copied();
        let mut of_it = silent
            .filter(|(_, id)| self.members.get(id).is_some_and(|member| member.owner.is(owner)));
        let mut due = Vec::new();
        let next = loop {
            match of_it.next() {
                Some((since, id)) if since + after <= now => due.push(id),
                next => break next.map(|(since, _)| since + after),
            }
        };
        let dropped = due.into_iter().filter(|id| self.drop(*id, PreambleDrop::Ended)).count();
        (dropped, next)
    }

    /// Makes room for one more preamble of this address under a limit of `max`. It drops the first
    /// that one of these rules finds:
    ///
    /// 1. the oldest silent one of the address with the most preambles, if that has more than its
    ///    equal share;
    /// 2. the oldest one that has been silent for a second;
    /// 3. the oldest one of the address with the most, if that has more than its equal share and
    ///    less than a quarter of all are silent: otherwise that address would push out every
    ///    newcomer, which is silent for a moment;
    /// 4. the oldest silent one of the address with the most, if that has several preambles; else
    ///    the oldest silent one;
    /// 5. the oldest one.
    ///
    /// Peers without an address are under rules 2, 4 and 5 only.
    pub(super) fn make_room(
        &mut self,
        max: usize,
        host: Option<IpAddr>,
        now: Instant,
    ) -> PreambleRoom {
        if self.len() < max {
            return PreambleRoom::Made(None);
        }
        let Some((id, reason)) = self.find(max, host, now) else {
            // All preambles have passed, and wait to be accepted.
            return PreambleRoom::NotBefore(now + NEW[1]);
        };
        if let Some(member) = self.members.get(&id)
            && member.host == host
        {
            let old_enough = member.since + NEW[usize::from(member.stage == PreambleStage::Spoken)];
            if now < old_enough {
                return PreambleRoom::NotBefore(old_enough);
            }
        }
        self.drop(id, reason);
        PreambleRoom::Made(Some(reason))
    }

    fn find(
        &self,
        max: usize,
        newcomer: Option<IpAddr>,
        now: Instant,
    ) -> Option<(u64, PreambleDrop)> {
        let addresses = self.groups.len() + usize::from(!self.groups.contains_key(&newcomer));
        let share = (max / addresses).max(1);
        // The newcomer counts for its address.
        let own = |stage: PreambleStage| {
            let group = self
                .groups
                .get(&newcomer)
                .filter(|group| !group.stages[stage as usize].is_empty())?;
            newcomer.map(|host| (group.len + 1, host))
        };
        let of_largest = |stage: PreambleStage, more_than: usize| {
            let largest = self.ranks[stage as usize].last().copied();
            let (len, host) = own(stage).into_iter().chain(largest).max_by_key(|&(len, _)| len)?;
            let group = self.groups.get(&Some(host)).filter(|_| len > more_than)?;
            group.stages[stage as usize].first().map(|(_, id)| *id)
        };
        let oldest = |stage: PreambleStage| self.all[stage as usize].first().map(|(_, id)| *id);
        let long_silent =
            |id: &u64| self.members.get(id).is_some_and(|member| now >= member.since + LONG_SILENT);
        let few_silent = self.all[PreambleStage::Silent as usize].len() < max.div_ceil(SILENT_PART);
        let with = |reason| move |id| (id, reason);
        of_largest(PreambleStage::Silent, share)
            .or_else(|| oldest(PreambleStage::Silent).filter(long_silent))
            .map(with(PreambleDrop::Silent))
            .or_else(|| {
                of_largest(PreambleStage::Spoken, share)
                    .filter(|_| few_silent)
                    .map(with(PreambleDrop::Share))
            })
            .or_else(|| of_largest(PreambleStage::Silent, 1).map(with(PreambleDrop::Silent)))
            .or_else(|| oldest(PreambleStage::Silent).map(with(PreambleDrop::Silent)))
            .or_else(|| oldest(PreambleStage::Spoken).map(with(PreambleDrop::Share)))
    }

    /// Drops a preamble, and counts that for its endpoint. The caller counts it for the server.
    fn drop(&mut self, id: u64, reason: PreambleDrop) -> bool {
        let Some(member) = self.take(id) else { return false };
        member.owner.end(PreambleEnd::Dropped(reason));
        // The send fails if the preamble ends by itself at this moment, which does no harm.
        let _ = member.drop.send(reason);
        true
    }

    fn add(&mut self, id: u64, member: CrowdEntry) {
        if member.stage == PreambleStage::Passed {
            *self.passed.entry(member.owner.service).or_default() += 1;
        }
        if let Some(all) = self.all.get_mut(member.stage as usize) {
            all.insert((member.since, id));
        }
        self.change(member.host, |group| {
            group.len += 1;
            if let Some(stage) = group.stages.get_mut(member.stage as usize) {
                stage.insert((member.since, id));
            }
        });
        self.members.insert(id, member);
    }

    fn take(&mut self, id: u64) -> Option<CrowdEntry> {
        let member = self.members.remove(&id)?;
        if member.stage == PreambleStage::Passed
            && let Some(passed) = self.passed.get_mut(&member.owner.service)
        {
            *passed -= 1;
        }
        if let Some(all) = self.all.get_mut(member.stage as usize) {
            all.remove(&(member.since, id));
        }
        self.change(member.host, |group| {
            group.len -= 1;
            if let Some(stage) = group.stages.get_mut(member.stage as usize) {
                stage.remove(&(member.since, id));
            }
        });
        Some(member)
    }

    fn change(&mut self, host: Option<IpAddr>, change: impl FnOnce(&mut Group)) {
        let group = self.groups.entry(host).or_default();
        let before = group.ranks();
        change(group);
        let after = group.ranks();
        if group.len == 0 {
            self.groups.remove(&host);
        }
        // Peers without an address have no rank.
        let Some(host) = host else { return };
        for (ranks, (before, after)) in self.ranks.iter_mut().zip(before.into_iter().zip(after)) {
            if let Some(len) = before {
                ranks.remove(&(len, host));
            }
            if let Some(len) = after {
                ranks.insert((len, host));
            }
        }
    }
}
