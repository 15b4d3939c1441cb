//! Lines that say how much comes behind them.

use ropewalk_codecs::laws::Laws;
use ropewalk_codecs::{LineBody, Lines};

use crate::corpus::{Random, streams};

/// `all <n>` announces n bytes.
fn announced(line: &[u8]) -> Option<u64> {
    std::str::from_utf8(line.strip_prefix(b"all ")?).ok()?.parse().ok()
}

fn check(lines: fn() -> Lines) {
    let mut random = Random::new(9);
    let mut announcing = || {
        let pieces = ["all 0", "all 3", "all 6", "all 7", "all 9999", "\r\n", "\r\n", "\n", "a", "", "\0"];
        (0..12).map(|_| pieces[random.below(pieces.len())]).collect::<String>()
    };
    let announcing: Vec<String> = (0..100).map(|_| announcing()).collect();
    // Its window is a line, for that says what comes behind it.
    let laws = Laws::new(move || LineBody::new(lines().max(8), announced).max_body(6)).limit(9).window(10);
    laws.streams(streams()).streams(announcing).variants(50).check();
}

#[test]
fn the_laws_hold_for_lines_with_bodies() {
    check(Lines::crlf);
    check(|| Lines::any().skip_too_long());
}
