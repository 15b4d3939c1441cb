//! tower's `RateLimit` counts for itself and is not `Clone`: `per_connection` is for such services.

use std::time::Duration;

use bytes::Bytes;
use ropewalk::{Lines, Reply, framed, service_fn};
use tower::ServiceBuilder;

fn main() {
    let service = ServiceBuilder::new()
        .rate_limit(10, Duration::from_secs(1))
        .service(service_fn(async |line: Bytes| Ok(Reply::one(line))));
    framed(Lines::crlf(), service);
}
