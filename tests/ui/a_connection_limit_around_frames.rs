//! A limit of connections around a service of frames.

use bytes::Bytes;
use ropewalk::{ConnectionLimitLayer, Lines, Reply, framed, service_fn};
use tower::ServiceBuilder;

fn main() {
    let service = ServiceBuilder::new()
        .layer(ConnectionLimitLayer::new(100))
        .service(service_fn(async |line: Bytes| Ok(Reply::one(line))));
    framed(Lines::crlf(), service);
}
