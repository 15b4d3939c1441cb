//! Where to cut a stream into reads.

use super::random::Random;

/// Up to this length a stream is cut in two at every byte.
const EVERY_CUT: usize = 200;
/// Up to this length it is cut in three at every pair of bytes.
const EVERY_PAIR: usize = 40;
/// A longer stream is cut in two and in three this many times each.
const SOME_CUTS: usize = 64;

/// The stream in reads that end at these sorted offsets and at the end of the stream.
pub(super) fn reads<'a>(stream: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut start = 0;
    let mut reads = Vec::with_capacity(cuts.len() + 1);
    for &cut in cuts {
        reads.push(&stream[start..cut]);
        start = cut;
    }
    reads.push(&stream[start..]);
    reads
}

/// Reads of `size` bytes.
pub(super) fn chunks(len: usize, size: usize) -> Vec<usize> {
    (size..len).step_by(size).collect()
}

/// The segmentations of a stream of `len` bytes: in two and in three, in reads of 1 to 9 bytes, and
/// `splits` random ones.
pub(super) fn segmentations(len: usize, splits: usize, random: &mut Random) -> Vec<Vec<usize>> {
    let mut all: Vec<Vec<usize>> = (1..=9).map(|size| chunks(len, size)).collect();
    all.extend(offsets(len, random).into_iter().map(|cut| vec![cut]));
    if len <= EVERY_PAIR {
        all.extend(
            (0..=len).flat_map(|first| (first..=len).map(move |second| vec![first, second])),
        );
    } else {
        // An empty first read makes the second read the third, before which the bytes do not move
        // to another buffer.
        all.extend((0..SOME_CUTS).map(|_| vec![0, random.below(len + 1)]));
    }
    all.extend((0..splits).map(|_| random_cuts(len, random)));
    all
}

/// A few segmentations, for one stream of many.
pub(super) fn few_segmentations(len: usize, random: &mut Random) -> Vec<Vec<usize>> {
    let mut few: Vec<Vec<usize>> = (1..=3).map(|size| chunks(len, size)).collect();
    few.extend((0..4).map(|_| random_cuts(len, random)));
    few
}

/// Every offset of a short stream; for a longer one some of them, and those near its ends.
pub(super) fn offsets(len: usize, random: &mut Random) -> Vec<usize> {
    if len <= EVERY_CUT {
        return (0..=len).collect();
    }
    let mut some: Vec<usize> = (0..8).chain(len - 8..=len).collect();
    some.extend((0..SOME_CUTS).map(|_| random.below(len + 1)));
    some
}

/// Reads of random sizes of the same order: a few long ones or many short ones. Some are empty.
fn random_cuts(len: usize, random: &mut Random) -> Vec<usize> {
    let most = *random.pick(&[3, 9, 40, len / 3 + 1, len + 1]);
    let mut cuts = Vec::new();
    let mut at = random.below(most);
    while at < len {
        cuts.push(at);
        // At least 2, because with only empty reads the loop would not end.
        at += random.below(most.max(2));
    }
    cuts
}

/// The stream with a few bytes dropped, doubled or replaced, with bytes of `corpus` in between, or
/// cut short.
pub(super) fn variant(stream: &[u8], corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = stream.to_vec();
    for _ in 0..=random.below(3) {
        let other = random.pick(corpus);
        let at = random.below(bytes.len() + 1);
        let end = (at + 1 + random.below(4)).min(bytes.len());
        match random.below(5) {
            0 => drop(bytes.drain(at..end)),
            1 => bytes.splice(at..at, bytes[at..end].to_vec()).for_each(drop),
            2 if !other.is_empty() => bytes.splice(at..end, [*random.pick(other)]).for_each(drop),
            3 if !other.is_empty() => {
                let from = random.below(other.len());
                bytes
                    .splice(at..at, other[from..(from + 8).min(other.len())].iter().copied())
                    .for_each(drop);
            }
            _ => bytes.truncate(at),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::{Random, few_segmentations, reads, segmentations, variant};

    /// FNV-1a over all numbers.
    fn fingerprint(numbers: impl IntoIterator<Item = usize>) -> u64 {
        let step = |hash: u64, number| (hash ^ number as u64).wrapping_mul(0x0100_0000_01b3);
        numbers.into_iter().fold(0xcbf2_9ce4_8422_2325, step)
    }

    /// A printed seed keeps finding the same violation; and the loss of a cut is noticed.
    #[test]
    fn a_seed_stands_for_the_same_cuts_and_the_same_variants() {
        let mut random = Random::new(7);
        let cuts = [0, 1, 40, 41, 200, 201, 1000].map(|len| {
            let all = segmentations(len, 20, &mut random);
            let few = few_segmentations(len, &mut random);
            let lengths: Vec<usize> = all.iter().chain(&few).map(Vec::len).collect();
            fingerprint(lengths.into_iter().chain(all.into_iter().chain(few).flatten()))
        });
        assert_eq!(
            cuts,
            [
                0xb54b_69a1_3a04_62c8,
                0x0efa_dec1_5423_5220,
                0x8d24_6f05_f310_7889,
                0x81c1_2cb5_113b_e4ec,
                0x775a_4a33_a614_8820,
                0xb06e_158c_a55c_dff9,
                0x8081_52cb_4b7b_7ea2
            ]
        );
        let corpus = [b"one\ntwo\n".to_vec(), Vec::new(), b"a longer one than that\n".to_vec()];
        let variants: Vec<Vec<u8>> =
            (0..500).map(|turn| variant(&corpus[turn % 3], &corpus, &mut random)).collect();
        let bytes = variants
            .iter()
            .flat_map(|bytes| bytes.iter().map(|byte| usize::from(*byte)).chain([256]));
        assert_eq!(fingerprint(bytes), 0x8505_f689_9a5b_e6c6);
    }

    #[test]
    fn a_short_stream_is_cut_everywhere_and_no_byte_is_lost() {
        let stream = b"abcdef";
        let all = segmentations(stream.len(), 5, &mut Random::new(1));
        for cut in 0..=stream.len() {
            assert!(all.contains(&vec![cut]) && all.contains(&vec![cut, cut]));
        }
        assert!(all.contains(&vec![1, 2, 3, 4, 5]), "byte by byte");
        for cuts in all {
            assert_eq!(reads(stream, &cuts).concat(), stream, "{cuts:?}");
        }
    }

    #[test]
    fn an_empty_stream_can_be_cut() {
        assert!(
            segmentations(0, 5, &mut Random::new(1))
                .iter()
                .all(|cuts| reads(b"", cuts).concat().is_empty())
        );
    }
}
