//! The faults of connections, and the dice that choose them.

use std::time::Duration;

/// The percentage of connections that suffer each kind of fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    pieces: u8,
    delays: u8,
    stalls: u8,
    cuts: u8,
    resets: u8,
}

impl Default for Faults {
    fn default() -> Self {
        Self { pieces: 60, delays: 40, stalls: 10, cuts: 10, resets: 10 }
    }
}

impl Faults {
    /// No faults.
    #[must_use]
    pub const fn none() -> Self {
        Self { pieces: 0, delays: 0, stalls: 0, cuts: 0, resets: 0 }
    }

    /// This percentage is read and written in pieces of a few bytes, often of one.
    #[must_use]
    pub const fn pieces(mut self, percent: u8) -> Self {
        self.pieces = percent;
        self
    }

    /// This percentage has reads and writes that wait for up to 50 ms.
    #[must_use]
    pub const fn delays(mut self, percent: u8) -> Self {
        self.delays = percent;
        self
    }

    /// This percentage stands still once, for up to two minutes.
    #[must_use]
    pub const fn stalls(mut self, percent: u8) -> Self {
        self.stalls = percent;
        self
    }

    /// This percentage ends at some byte that the client sends, as if the client had closed its
    /// half there.
    #[must_use]
    pub const fn cuts(mut self, percent: u8) -> Self {
        self.cuts = percent;
        self
    }

    /// This percentage is reset at some byte, in either direction.
    #[must_use]
    pub const fn resets(mut self, percent: u8) -> Self {
        self.resets = percent;
        self
    }

    /// The faults of one connection.
    pub(super) fn plan(&self, dice: &mut Dice) -> FaultPlan {
        // All dice are rolled in any case, so that changing one percentage does not change the
        // results of the others.
        let mut happens = |percent| dice.roll(100) < u64::from(percent);
        let pieces = happens(self.pieces);
        let delays = happens(self.delays);
        let stalls = happens(self.stalls);
        let cuts = happens(self.cuts);
        let resets = happens(self.resets);
        let at_byte = dice.roll(4096);
        let at_step = dice.roll(64);
        let end = match (cuts, resets) {
            (true, _) => Some(Break::Cut),
            (false, true) => Some(Break::Reset),
            (false, false) => None,
        };
        FaultPlan {
            pieces,
            delays,
            stall_at: stalls.then_some(at_step),
            end: end.map(|end| (at_byte, end)),
        }
    }
}

/// How a connection breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Break {
    Cut,
    Reset,
}

/// The faults of one connection.
#[derive(Clone, Debug)]
pub(super) struct FaultPlan {
    pub(super) pieces: bool,
    delays: bool,
    /// The step at which it stands still.
    stall_at: Option<u64>,
    /// After how many bytes it breaks, and how.
    pub(super) end: Option<(u64, Break)>,
}

impl FaultPlan {
    /// How long the next read or write waits.
    pub(super) fn wait(&mut self, step: u64, dice: &mut Dice) -> Option<Duration> {
        if self.stall_at.is_some_and(|at| step >= at) {
            self.stall_at = None;
            return Some(Duration::from_secs(1 + dice.roll(120)));
        }
        let waits = self.delays && dice.roll(4) == 0;
        waits.then(|| Duration::from_millis(1 + dice.roll(50)))
    }

    /// How many bytes the next read or write moves at most.
    pub(super) fn most(&self, dice: &mut Dice) -> u64 {
        match dice.roll(4) {
            _ if !self.pieces => u64::MAX,
            0 | 1 => 1,
            2 => 1 + dice.roll(16),
            _ => 1 + dice.roll(4096),
        }
    }
}

/// Numbers that look random and follow from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        if sides == 0 { 0 } else { z % sides }
    }
}
