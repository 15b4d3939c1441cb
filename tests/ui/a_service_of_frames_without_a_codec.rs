//! `framed(codec, service)` was forgotten.

use bytes::Bytes;
use ropewalk::{Server, reply_fn};

fn main() {
    let _ = Server::new().listen("tcp:8007").serve(reply_fn(|bytes: Bytes| bytes));
}
