//! The example memcached, with a small cache.

use std::sync::{Arc, Mutex};

use ropewalk::server::Serve;
use ropewalk::{Endpoint, Server, framed, reply_fn};

#[rustfmt::skip]
#[path = "../../../examples/memcached/cache.rs"]
mod cache;
#[rustfmt::skip]
#[path = "../../../examples/memcached/codec.rs"]
mod codec;
#[rustfmt::skip]
#[path = "../../../examples/memcached/service.rs"]
mod service;

use self::cache::Cache;
use self::codec::{MAX_VALUE, Memcache};

/// So small that values push out one another.
const CACHE: usize = 1000;
/// The longest `get`: longer than any other command.
const LINE: usize = 2200;

pub struct Memcached(Arc<Mutex<Cache>>);

impl super::Protocol for Memcached {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Cache::new(CACHE))))
    }

    fn serve(&self, endpoint: Endpoint) -> Serve {
        let cache = Arc::clone(&self.0);
        let answer = reply_fn(move |request| service::answer(&cache, request));
        Server::new()
            .listen(endpoint)
            .serve(framed(Memcache::new(LINE, MAX_VALUE), answer).on_error(service::refuse))
    }

    /// Without what tells the time.
    fn stable(heard: Vec<u8>) -> Vec<u8> {
        let lines = heard.split_inclusive(|&byte| byte == b'\n');
        lines
            .filter(|line| !line.starts_with(b"STAT time ") && !line.starts_with(b"STAT uptime "))
            .flatten()
            .copied()
            .collect()
    }
}
