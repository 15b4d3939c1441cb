//! Nothing is served before the future is awaited.
#![deny(unused_must_use)]

use bytes::Bytes;
use ropewalk::{RawBytes, Server, framed, reply_fn};

fn main() {
    Server::new().listen("tcp:8007").serve(framed(RawBytes, reply_fn(|bytes: Bytes| bytes)));
}
