//! Which connections are chosen when only some are.

/// Whether a connection is one of `n`, by its number.
///
/// The numbers are mixed first (the finalizer of SplitMix64), because those of one server's
/// connections may have a pattern: if each of them opens another one to a backend, every second
/// number is missing.
pub(crate) fn is_chosen(id: u64, n: u64) -> bool {
    let mut mixed = id.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    (u128::from(mixed) * u128::from(n)) >> 64 == 0
}

#[cfg(test)]
mod tests {
    use super::is_chosen;

    #[test]
    fn of_any_pattern_of_numbers_one_of_n_is_chosen() {
        for n in [1, 2, 3, 7, 10, 100, 1000] {
            for step in 1..=20 {
                let chosen = (0..10_000).filter(|id| is_chosen(id * step, n)).count();
                let expected = 10_000.0 / n as f64;
                let off = (chosen as f64 - expected).abs();
                // Four standard deviations of a choice by chance.
                assert!(off <= 4.0 * expected.sqrt() + 1.0, "{chosen} of one in {n}, every {step}");
            }
        }
        assert!((0..100_000).all(|id| !is_chosen(id, u64::MAX)));
    }
}
