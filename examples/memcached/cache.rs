//! What is kept: the least recently used goes first when memory runs out.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use lru::LruCache;
use ropewalk::Bytes;
use tokio::time::Instant;

/// What an item costs beside its key and its value, in bytes: an entry in the list, a place in the table, allocations.
const OVERHEAD: usize = 200;

#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) value: Bytes,
    pub(crate) flags: u32,
    /// No two versions of any items have the same.
    pub(crate) cas: u64,
    pub(crate) expires: Option<Instant>,
}

pub(crate) struct Cache {
    items: LruCache<Box<[u8]>, Item>,
    bytes: usize,
    limit: usize,
    last_cas: u64,
    /// Items of before the last `flush_all` are gone: those up to this one.
    flushed: u64,
    /// When the next one is due.
    flush_at: Option<Instant>,
    started: Instant,
    gets: u64,
    hits: u64,
    pub(crate) sets: u64,
    evictions: u64,
}

/// The cache as it is now. No command holds the lock for longer than it takes to look up one key.
pub(crate) fn lock(cache: &Mutex<Cache>) -> MutexGuard<'_, Cache> {
    let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
    if cache.flush_at.is_some_and(|at| at <= Instant::now()) {
        // Nothing was stored since it was due: that would have come by here.
        cache.flush_at = None;
        cache.flushed = cache.last_cas;
    }
    cache
}

impl Cache {
    /// With so many bytes at most, as far as they can be counted.
    pub(crate) fn new(limit: usize) -> Self {
        let (items, started) = (LruCache::unbounded(), Instant::now());
        let (last_cas, flushed, flush_at) = (0, 0, None);
        Self { items, bytes: 0, limit, last_cas, flushed, flush_at, started, gets: 0, hits: 0, sets: 0, evictions: 0 }
    }

    /// An item that is alive. It is now the one used last.
    pub(crate) fn find(&mut self, key: &[u8]) -> Option<&mut Item> {
        let flushed = self.flushed;
        // A dead one stays until its place is needed.
        self.items.get_mut(key).filter(|item| item.cas > flushed && item.expires.is_none_or(|at| Instant::now() < at))
    }

    /// Looks an item up for somebody who wants it, and moves its end if there is a new one.
    pub(crate) fn get(&mut self, key: &[u8], expires: Option<Option<Instant>>) -> Option<Item> {
        self.gets += 1;
        let item = self.find(key)?;
        item.expires = expires.unwrap_or(item.expires);
        let item = item.clone();
        self.hits += 1;
        Some(item)
    }

    /// Keeps an item, unless it is larger than the cache. What it was to replace is gone in any case.
    pub(crate) fn put(&mut self, key: &[u8], item: Item) -> Result<(), &'static str> {
        self.remove(key);
        let size = cost(key, &item);
        if size > self.limit {
            return Err("SERVER_ERROR out of memory storing object");
        }
        self.last_cas += 1;
        self.bytes += size;
        self.items.push(key.into(), Item { cas: self.last_cas, ..item });
        while self.bytes > self.limit
            && let Some((key, item)) = self.items.pop_lru()
        {
            self.bytes -= cost(&key, &item);
            self.evictions += 1;
        }
        Ok(())
    }

    pub(crate) fn remove(&mut self, key: &[u8]) {
        self.bytes -= self.items.pop(key).map_or(0, |item| cost(key, &item));
    }

    /// At once, or when it is due.
    pub(crate) fn flush_all(&mut self, due: Option<Instant>) -> &'static str {
        self.flush_at = Some(due.unwrap_or_else(Instant::now));
        "OK"
    }

    pub(crate) fn stats(&self) -> String {
        let numbers = [
            ("pid", std::process::id().into()),
            ("uptime", self.started.elapsed().as_secs()),
            ("time", SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs()),
            ("cmd_get", self.gets),
            ("cmd_set", self.sets),
            ("get_hits", self.hits),
            ("get_misses", self.gets - self.hits),
            ("curr_items", self.items.len() as u64),
            ("bytes", self.bytes as u64),
            ("limit_maxbytes", self.limit as u64),
            ("evictions", self.evictions),
        ];
        let lines: String = numbers.iter().map(|(name, n)| format!("STAT {name} {n}\r\n")).collect();
        format!("STAT version {}\r\n{lines}END", env!("CARGO_PKG_VERSION"))
    }
}

fn cost(key: &[u8], item: &Item) -> usize {
    key.len() + item.value.len() + OVERHEAD
}
