//! The same in an async function.

use bytes::Bytes;
use ropewalk::{Lines, framed, service_fn};

fn main() {
    framed(Lines::crlf(), service_fn(async |line: Bytes| Ok(line.len())));
}
