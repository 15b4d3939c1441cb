//! A number is no frame: what should be its bytes?

use bytes::Bytes;
use ropewalk::{Lines, framed, reply_fn};

fn main() {
    framed(Lines::crlf(), reply_fn(|line: Bytes| line.len()));
}
