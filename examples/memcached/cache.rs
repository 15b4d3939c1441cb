//! The cache. When memory runs out, the least recently used items are dropped.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use lru::LruCache;
use ropewalk::Bytes;
use tokio::time::Instant;

use super::codec::MAX_VALUE;

/// The last version of memcached before its meta commands. Clients fail at one that begins with 0.
pub(crate) const VERSION: &str = "1.5.22";
/// The cost of an item in bytes besides its key and value: an entry in the list and in the table, allocations.
const OVERHEAD: usize = 200;

#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) value: Bytes,
    pub(crate) flags: u32,
    /// Unique for each version of each item.
    pub(crate) cas: u64,
    pub(crate) expires: Option<Instant>,
}

pub(crate) struct Cache {
    items: LruCache<Box<[u8]>, Item>,
    bytes: usize,
    limit: usize,
    last_cas: u64,
    /// Items up to this `cas` are gone, by the last `flush_all`. The next one is due at `flush_at`.
    flushed: u64,
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
        // No item was stored since it was due, because storing one locks the cache here.
        cache.flush_at = None;
        cache.flushed = cache.last_cas;
    }
    cache
}

impl Cache {
    /// A cache of at most `limit` bytes, as far as they can be counted.
    pub(crate) fn new(limit: usize) -> Self {
        let (items, started, last_cas, flushed, flush_at) = (LruCache::unbounded(), Instant::now(), 0, 0, None);
        Self { items, bytes: 0, limit, last_cas, flushed, flush_at, started, gets: 0, hits: 0, sets: 0, evictions: 0 }
    }

    /// An item that is alive. It is now the one used last.
    pub(crate) fn find(&mut self, key: &[u8]) -> Option<&mut Item> {
        let flushed = self.flushed;
        // An expired item stays until its memory is needed.
        self.items.get_mut(key).filter(|item| item.cas > flushed && item.expires.is_none_or(|at| Instant::now() < at))
    }

    /// Looks up an item for a client, and changes its expiry if there is a new one.
    pub(crate) fn get(&mut self, key: &[u8], expires: Option<Option<Instant>>) -> Option<Item> {
        self.gets += 1;
        let item = self.find(key)?;
        item.expires = expires.unwrap_or(item.expires);
        let item = item.clone();
        self.hits += 1;
        Some(item)
    }

    /// Stores an item, unless it is larger than the cache. The item it replaces is gone in any case.
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

    /// One of the lists of statistics. memcached has classes of items by their size; here there is one class.
    pub(crate) fn stats(&self, list: &[u8]) -> Option<String> {
        let Self { gets, hits, sets, evictions, bytes, limit, .. } = self;
        let (items, misses, uptime) = (self.items.len(), gets - hits, self.started.elapsed().as_secs());
        let (pid, time) = (std::process::id(), SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs());
        let list = match list {
            b"" => format!(
                "pid {pid}\nuptime {uptime}\ntime {time}\nversion {VERSION}\ncmd_get {gets}\ncmd_set {sets}\n\
                get_hits {hits}\nget_misses {misses}\ncurr_items {items}\nbytes {bytes}\nlimit_maxbytes {limit}\n\
                evictions {evictions}"
            ),
            b"settings" => format!(
                "maxbytes {limit}\nitem_size_max {MAX_VALUE}\nevictions on\ncas_enabled yes\nbinding_protocol ascii"
            ),
            b"items" | b"slabs" if items == 0 => String::new(),
            b"items" => format!("items:1:number {items}\nitems:1:mem_requested {bytes}\nitems:1:evicted {evictions}"),
            b"slabs" => format!("1:chunk_size {MAX_VALUE}\n1:used_chunks {items}\n1:mem_requested {bytes}"),
            _ => return None,
        };
        Some(list.lines().map(|line| format!("STAT {line}\r\n")).chain(["END".into()]).collect())
    }

    /// Resets the counters to 0.
    pub(crate) fn reset(&mut self) -> &'static str {
        (self.gets, self.hits, self.sets, self.evictions) = (0, 0, 0, 0);
        "RESET"
    }
}

fn cost(key: &[u8], item: &Item) -> usize {
    key.len() + item.value.len() + OVERHEAD
}
