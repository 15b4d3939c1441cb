//! `Lines` gives `Bytes`; for strings it is `Lines::crlf().utf8()`.

use ropewalk::{Lines, framed, reply_fn};

fn main() {
    framed(Lines::crlf(), reply_fn(|line: String| line));
}
