//! What is kept: the least recently used goes first when memory runs out.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use lru::LruCache;
use ropewalk::Bytes;
use tokio::time::Instant;

use super::codec::{MAX_VALUE, TOO_LARGE};

/// Up to this many seconds an expiry counts from now, beyond it it is a Unix time.
const RELATIVE: u64 = 60 * 60 * 24 * 30;
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

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum How {
    Set,
    Add,
    Replace,
    Append,
    Prepend,
    Cas(u64),
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
    sets: u64,
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

    pub(crate) fn get(&mut self, key: &[u8], exptime: Option<i64>) -> Option<Item> {
        self.gets += 1;
        let item = self.find(key)?;
        if let Some(exptime) = exptime {
            item.expires = deadline(exptime);
        }
        let item = item.clone();
        self.hits += 1;
        Some(item)
    }

    pub(crate) fn store(&mut self, how: How, key: &[u8], new: Item) -> &'static str {
        self.sets += 1;
        let joined = |first: &Bytes, second: &Bytes| Bytes::from([&first[..], &second[..]].concat());
        let item = match (how, self.find(key)) {
            (How::Add, Some(_)) | (How::Replace | How::Append | How::Prepend, None) => return "NOT_STORED",
            (How::Append, Some(old)) => Item { value: joined(&old.value, &new.value), ..old.clone() },
            (How::Prepend, Some(old)) => Item { value: joined(&new.value, &old.value), ..old.clone() },
            (How::Cas(_), None) => return "NOT_FOUND",
            (How::Cas(cas), Some(old)) if cas != old.cas => return "EXISTS",
            _ => new,
        };
        if item.value.len() > MAX_VALUE { TOO_LARGE } else { self.put(key, item) }
    }

    pub(crate) fn delete(&mut self, key: &[u8]) -> &'static str {
        let was_there = self.find(key).is_some();
        self.remove(key);
        if was_there { "DELETED" } else { "NOT_FOUND" }
    }

    /// A number made another.
    pub(crate) fn count(&mut self, key: &[u8], change: impl Fn(u64) -> u64) -> Result<String, &'static str> {
        let item = self.find(key).cloned().ok_or("NOT_FOUND")?;
        let n = std::str::from_utf8(&item.value).ok().and_then(|text| text.parse().ok());
        let n = change(n.ok_or("CLIENT_ERROR cannot increment or decrement non-numeric value")?).to_string();
        self.put(key, Item { value: n.clone().into(), ..item });
        Ok(n)
    }

    pub(crate) fn touch(&mut self, key: &[u8], exptime: i64) -> &'static str {
        let Some(item) = self.find(key) else { return "NOT_FOUND" };
        item.expires = deadline(exptime);
        "TOUCHED"
    }

    pub(crate) fn flush_all(&mut self, delay: i64) -> &'static str {
        self.flush_at = Some(deadline(delay).unwrap_or_else(Instant::now));
        "OK"
    }

    pub(crate) fn stats(&self) -> String {
        let numbers = [
            ("pid", std::process::id().into()),
            ("uptime", self.started.elapsed().as_secs()),
            ("time", unix_time().as_secs()),
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

    /// An item that is alive. It is now the one used last.
    fn find(&mut self, key: &[u8]) -> Option<&mut Item> {
        let flushed = self.flushed;
        // A dead one stays until its place is needed.
        self.items.get_mut(key).filter(|item| item.cas > flushed && item.expires.is_none_or(|at| Instant::now() < at))
    }

    fn put(&mut self, key: &[u8], item: Item) -> &'static str {
        self.remove(key);
        let size = cost(key, &item);
        if size > self.limit {
            return "SERVER_ERROR out of memory storing object";
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
        "STORED"
    }

    fn remove(&mut self, key: &[u8]) {
        self.bytes -= self.items.pop(key).map_or(0, |item| cost(key, &item));
    }
}

fn cost(key: &[u8], item: &Item) -> usize {
    key.len() + item.value.len() + OVERHEAD
}

fn unix_time() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// When something expires, as the client said it: 0 is never, less is at once.
pub(crate) fn deadline(exptime: i64) -> Option<Instant> {
    let seconds = match u64::try_from(exptime) {
        Ok(0) => return None,
        Ok(seconds) if seconds <= RELATIVE => Duration::from_secs(seconds),
        Ok(unix) => Duration::from_secs(unix).saturating_sub(unix_time()),
        Err(_) => Duration::ZERO,
    };
    // What is beyond the clock's range never comes.
    Instant::now().checked_add(seconds)
}
