//! Bytes as lines of text.

use std::fmt::Write;

/// The bytes of a line.
const A_LINE: usize = 16;

/// The beginning of each line: the time, in microseconds since 1970, and the connection's number.
pub(super) fn line(micros: u64, id: u64, text: &str) -> String {
    format!("{}.{:06} {id} {text}\n", micros / 1_000_000, micros % 1_000_000)
}

/// Bytes from this offset of a direction on.
pub(super) fn dump(micros: u64, id: u64, arrow: char, offset: u64, bytes: &[u8]) -> String {
    let mut lines = String::new();
    for (index, part) in bytes.chunks(A_LINE).enumerate() {
        let at = offset.wrapping_add((index * A_LINE) as u64);
        let mut text = format!("{arrow} {at:08x} ");
        for column in 0..A_LINE {
            let gap = if column == A_LINE / 2 { "  " } else { " " };
            // A `String` takes everything.
            let _ = match part.get(column) {
                Some(byte) => write!(text, "{gap}{byte:02x}"),
                None => write!(text, "{gap}  "),
            };
        }
        text.push_str("  ");
        let shown = |byte: &u8| if (b' '..=b'~').contains(byte) { char::from(*byte) } else { '.' };
        text.extend(part.iter().map(shown));
        lines.push_str(&line(micros, id, &text));
    }
    lines
}
