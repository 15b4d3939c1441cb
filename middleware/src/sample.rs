//! Which connections are chosen when only some are.

/// Whether a connection is one of `n`, by its number.
///
/// The numbers are mixed first, because those of one server's connections may have a pattern: if
/// each of them opens another one to a backend, every second number is missing.
pub(crate) fn is_chosen(id: u64, n: u64) -> bool {
    // 2^64 divided by the golden ratio: its multiples are spread evenly, and so are those of every
    // second or third number.
    let mixed = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
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
                assert!(off <= expected / 5.0 + 7.0, "{chosen} of one in {n}, every {step}");
            }
        }
        assert!((0..100_000).all(|id| id == 0 || !is_chosen(id, u64::MAX)));
    }
}
