//! Of comparing the events of two runs.

use super::{After, Mark, same_boundaries};

fn mark(given: usize, taken: usize, after: Option<After>) -> Mark {
    Mark { given, taken, after }
}

#[test]
fn frames_that_end_elsewhere_or_come_later_or_are_more_are_not_the_same() {
    let frames = [mark(4, 4, None), mark(8, 8, None)];
    assert!(same_boundaries(&frames, &frames));
    assert!(!same_boundaries(&frames, &frames[..1]));
    assert!(!same_boundaries(&frames, &[mark(4, 4, None), mark(8, 7, None)]));
    assert!(!same_boundaries(&frames, &[mark(4, 4, None), mark(9, 8, None)]));
}

#[test]
fn a_found_frame_may_have_another_fault() {
    let frame = [mark(4, 4, None), mark(8, 8, None)];
    let fault = Some(After::Frames);
    // A frame in one and an error at another offset in the other: the comparison stops.
    assert!(same_boundaries(&frame, &[mark(4, 3, fault), mark(9, 9, None)]));
    // At the same offset it continues.
    assert!(!same_boundaries(&frame, &[mark(4, 4, fault), mark(9, 9, None)]));
    // One of the two came later.
    assert!(!same_boundaries(&frame, &[mark(5, 3, fault), mark(8, 8, None)]));
    // Two errors at different offsets are a difference.
    assert!(!same_boundaries(&[mark(4, 4, fault)], &[mark(4, 3, fault)]));
}

#[test]
fn nothing_is_compared_after_the_error_that_ends_a_decoder() {
    for end in [After::Nothing, After::Unknown].map(Some) {
        let over = [mark(4, 4, end)];
        assert!(same_boundaries(&over, &[mark(4, 4, None), mark(8, 8, None)]));
        assert!(same_boundaries(&[mark(4, 4, None), mark(8, 8, None)], &over));
    }
    let fault = [mark(4, 4, Some(After::Frames))];
    assert!(!same_boundaries(&fault, &[mark(4, 4, None), mark(8, 8, None)]));
}
