//! A log of frames on the server, where there are connections.

use bytes::Bytes;
use ropewalk::{FrameLogLayer, Lines, Server, framed, reply_fn};

fn main() {
    let _ = Server::new()
        .listen("tcp:8007")
        .layer(FrameLogLayer::new())
        .serve(framed(Lines::crlf(), reply_fn(|line: Bytes| line)));
}
