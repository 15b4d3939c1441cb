//! Where the first LF is.

use memchr::memchr;

/// This many bytes are compared at once: a vector of every CPU.
const VECTOR: usize = 16;

/// Lines up to about this length are found without calling `memchr`.
const NEAR: usize = 8 * VECTOR;

/// The length of an answer up to which it is searched with two blocks.
const BLOCK: usize = 64;

/// The index of the first LF.
///
/// For lines of the usual length the call of `memchr`, which selects its code by the CPU, costs
/// more than the search. So the first bytes are searched in place, in a form that the compiler
/// turns into vector instructions; `memchr`, which is faster on long input, searches the rest.
#[inline(always)]
pub(super) fn find(bytes: &[u8]) -> Option<usize> {
    // Of a constant length, so that the loop is unrolled.
    let Some(near) = bytes.first_chunk::<NEAR>() else { return find_short(bytes) };
    find_near(near).or_else(|| find_far(bytes, NEAR))
}

/// Whether there is an LF.
#[inline(always)]
pub(super) fn is_in(bytes: &[u8]) -> bool {
    // The last block overlaps the first, so that together they cover all bytes.
    match bytes.last_chunk::<BLOCK>() {
        Some(last) if bytes.len() == BLOCK => has_lf(last),
        Some(last) if bytes.len() <= 2 * BLOCK => {
            bytes.first_chunk::<BLOCK>().is_some_and(has_lf) || has_lf(last)
        }
        _ => memchr(b'\n', bytes).is_some(),
    }
}

/// The end of a burst, or a line that came alone.
#[inline(never)]
fn find_short(bytes: &[u8]) -> Option<usize> {
    let (vectors, rest) = bytes.as_chunks::<VECTOR>();
    find_near(vectors.as_flattened())
        .or_else(|| Some(bytes.len() - rest.len() + rest.iter().position(|&byte| byte == b'\n')?))
}

#[inline(never)]
fn find_far(bytes: &[u8], from: usize) -> Option<usize> {
    Some(from + memchr(b'\n', &bytes[from..])?)
}

/// The index of the first LF of whole vectors.
#[inline(always)]
fn find_near(bytes: &[u8]) -> Option<usize> {
    let (vectors, _) = bytes.as_chunks::<VECTOR>();
    for (n, vector) in vectors.iter().enumerate() {
        if has_lf(vector) {
            return Some(n * VECTOR + first_lf(vector));
        }
    }
    None
}

/// Whether there is an LF. It doesn't stop at the first one, so that the loop has no branches.
#[inline(always)]
fn has_lf<const N: usize>(bytes: &[u8; N]) -> bool {
    bytes.iter().fold(false, |found, &byte| found | (byte == b'\n'))
}

/// The index of the first LF of a vector that has one.
#[inline(always)]
fn first_lf(vector: &[u8; VECTOR]) -> usize {
    let (words, _) = vector.as_chunks::<8>();
    match lf_in(words[0]) {
        8 => 8 + lf_in(words[1]),
        at => at,
    }
}

/// The index of the first LF of eight bytes; 8 if there is no LF.
#[inline(always)]
fn lf_in(word: [u8; 8]) -> usize {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const LFS: u64 = u64::from_le_bytes([b'\n'; 8]);
    const HIGH: u64 = u64::from_le_bytes([0x80; 8]);
    // Each LF is now a zero byte. The subtraction borrows only from bytes above the first zero, so
    // the lowest mark is right.
    let zero = u64::from_le_bytes(word) ^ LFS;
    let marks = zero.wrapping_sub(ONES) & !zero & HIGH;
    marks.trailing_zeros() as usize / 8
}

#[cfg(test)]
mod tests {
    use super::{NEAR, find, is_in};

    #[test]
    fn the_first_lf_is_found_at_any_index_and_among_any_bytes() {
        // Word arithmetic could mistake neighbours of LF in value, with and without the high bit,
        // for an LF.
        for around in [0, 9, 11, b'x', 0x7f, 0x80, 0x8a, 0x8b, 0xff] {
            for len in 0..NEAR + 70 {
                let mut bytes = vec![around; len];
                assert_eq!(find(&bytes), None, "{len} bytes of {around}");
                assert!(!is_in(&bytes), "{len} bytes of {around}");
                for at in (0..len).rev() {
                    bytes[at] = b'\n';
                    assert_eq!(find(&bytes), Some(at), "in {len} bytes of {around}");
                    assert!(is_in(&bytes), "at {at} in {len} bytes of {around}");
                    let mut alone = vec![around; len];
                    alone[at] = b'\n';
                    assert!(is_in(&alone), "alone at {at} in {len} bytes of {around}");
                }
            }
        }
    }

    #[test]
    fn a_byte_after_the_lf_is_never_taken_for_it() {
        for after in 0..=u8::MAX {
            for at in 0..NEAR {
                let mut bytes = [b'x'; NEAR];
                bytes[at] = b'\n';
                bytes[at + 1..].fill(after);
                assert_eq!(find(&bytes), Some(at), "before bytes of {after}");
            }
        }
    }
}
