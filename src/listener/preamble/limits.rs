//! The number of descriptors for connections, and for preambles.

use rustix::process::{Resource, getrlimit};

/// The default of the most preambles under way, if there are enough descriptors.
const MAX: usize = 4096;

/// Preambles may have one in this many of a server's descriptors.
const PART: usize = 4;

/// How many descriptors the connections and preambles of a server may have: 80 % of the process's
/// limit, minus 64; half of a small limit, of which that would leave almost nothing.
pub(crate) fn descriptors() -> usize {
    of(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
}

fn of(limit: u64) -> usize {
    let share = (limit / 5).saturating_mul(4).saturating_sub(64).max(limit / 2);
    usize::try_from(share).unwrap_or(usize::MAX)
}

/// How many preambles may be under way in a server with this many descriptors.
pub(crate) fn default_max_preambles(descriptors: usize) -> usize {
    (descriptors / PART).clamp(1, MAX)
}

#[cfg(test)]
mod tests {
    use super::{default_max_preambles, of};

    #[test]
    fn a_quarter_of_the_descriptors_is_for_preambles_up_to_4096() {
        for (limit, descriptors, preambles) in [
            (0, 0, 1),
            (10, 5, 1),
            (256, 140, 35),
            (1024, 752, 188),
            (20_000, 15_936, 3984),
            (65_536, 52_364, 4096),
            (u64::MAX, usize::try_from(u64::MAX / 5 * 4 - 64).unwrap_or(usize::MAX), 4096),
        ] {
            assert_eq!(
                (of(limit), default_max_preambles(of(limit))),
                (descriptors, preambles),
                "{limit}"
            );
        }
    }
}
