//! The service answers `Bytes`, so what answers errors has to as well.

use bytes::Bytes;
use ropewalk::{Lines, framed, reply_fn};

fn main() {
    framed(Lines::crlf(), reply_fn(|line: Bytes| line)).on_error(|error| format!("error: {error}"));
}
