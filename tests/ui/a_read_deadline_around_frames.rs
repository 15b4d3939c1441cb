//! Deadlines for the peer around a service of frames.

use bytes::Bytes;
use ropewalk::{Lines, ReadDeadlineLayer, framed, reply_fn};
use tower::ServiceBuilder;

fn main() {
    let service =
        ServiceBuilder::new().layer(ReadDeadlineLayer::new()).service(reply_fn(|line: Bytes| line));
    framed(Lines::crlf(), service);
}
