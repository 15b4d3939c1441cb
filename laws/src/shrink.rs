//! The same failure on fewer bytes in fewer reads.

/// How many attempts are made to shrink a failure.
const ATTEMPTS: usize = 5000;

/// Drops bytes of the stream and merges reads as long as `fails` still returns a failure. Returns
/// the last failure.
pub(super) fn shrink<T>(
    stream: &[u8],
    cuts: &[usize],
    found: T,
    mut fails: impl FnMut(&[u8], &[usize]) -> Option<T>,
) -> T {
    let mut best = (stream.to_vec(), cuts.to_vec(), found);
    let mut attempts = 0;
    loop {
        let before = (best.0.len(), best.1.len());
        let mut attempt =
            |best: &mut (Vec<u8>, Vec<usize>, T), stream: Vec<u8>, cuts: Vec<usize>| {
                attempts += 1;
                let found = if attempts < ATTEMPTS { fails(&stream, &cuts) } else { None };
                found.map(|found| *best = (stream, cuts, found)).is_some()
            };
        drop_bytes(&mut best, &mut attempt);
        merge_reads(&mut best, &mut attempt);
        if (best.0.len(), best.1.len()) == before {
            return best.2;
        }
    }
}

type Best<T> = (Vec<u8>, Vec<usize>, T);

/// Drops ever shorter pieces of the stream.
fn drop_bytes<T>(
    best: &mut Best<T>,
    attempt: &mut impl FnMut(&mut Best<T>, Vec<u8>, Vec<usize>) -> bool,
) {
    let mut size = best.0.len();
    while size > 0 {
        let mut start = 0;
        while start < best.0.len() {
            let end = (start + size).min(best.0.len());
            let stream = [&best.0[..start], &best.0[end..]].concat();
            let cuts = best
                .1
                .iter()
                .map(|&cut| if cut > start { start + cut.saturating_sub(end) } else { cut });
            let cuts = cuts.collect();
            if !attempt(best, stream, cuts) {
                start = end;
            }
        }
        size /= 2;
    }
}

/// Merges ever fewer neighbouring reads.
fn merge_reads<T>(
    best: &mut Best<T>,
    attempt: &mut impl FnMut(&mut Best<T>, Vec<u8>, Vec<usize>) -> bool,
) {
    let mut size = best.1.len();
    while size > 0 {
        let mut start = 0;
        while start < best.1.len() {
            let end = (start + size).min(best.1.len());
            let cuts = [&best.1[..start], &best.1[end..]].concat();
            let stream = best.0.clone();
            if !attempt(best, stream, cuts) {
                start = end;
            }
        }
        size /= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::shrink;

    #[test]
    fn irrelevant_parts_are_dropped_and_relevant_ones_kept() {
        // It fails where `a` ends a read and a `b` comes somewhere after it.
        let fails = |stream: &[u8], cuts: &[usize]| {
            let bad = cuts
                .iter()
                .any(|&cut| stream[..cut].ends_with(b"a") && stream[cut..].contains(&b'b'));
            bad.then(|| (stream.to_vec(), cuts.to_vec()))
        };
        let stream = b"xxxxaxxbxxxxxaxxxxxb";
        let cuts = [1, 2, 5, 7, 9, 14, 18];
        let found = fails(stream, &cuts).expect("it fails");
        assert_eq!(shrink(stream, &cuts, found, fails), (b"ab".to_vec(), vec![1]));
    }

    #[test]
    fn no_more_is_tried_than_a_failure_is_worth() {
        let stream = vec![b'x'; 4000];
        let mut tried = 0;
        shrink(&stream, &[], (), |_, _| {
            tried += 1;
            None
        });
        assert_eq!(tried, super::ATTEMPTS - 1);
    }
}
