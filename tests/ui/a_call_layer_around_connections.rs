//! A deadline for calls on the server, where there are connections.

use std::time::Duration;

use bytes::Bytes;
use ropewalk::{CallDeadlineLayer, Lines, Server, framed, reply_fn};

fn main() {
    let _ = Server::new()
        .listen("tcp:8007")
        .layer(CallDeadlineLayer::new(Duration::from_secs(5)))
        .serve(framed(Lines::crlf(), reply_fn(|line: Bytes| line)));
}
