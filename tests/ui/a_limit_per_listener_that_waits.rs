//! A limit per listener that does not say how it refuses.

use ropewalk::ConnectionLimitLayer;

fn main() {
    let _limit = ConnectionLimitLayer::new(100).per_listener();
}
