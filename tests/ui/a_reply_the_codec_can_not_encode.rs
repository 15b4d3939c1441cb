//! `Lines` encodes what gives bytes; this type does not.

use bytes::Bytes;
use ropewalk::{Lines, Reply, framed, reply_fn};

struct Answer;

fn main() {
    framed(Lines::crlf(), reply_fn(|_: Bytes| Reply::one(Answer)));
}
