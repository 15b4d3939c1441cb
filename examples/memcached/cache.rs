//! What is kept: the least recently used goes first when memory runs out.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use lru::LruCache;
use ropewalk::Bytes;
use tokio::time::Instant;

use super::codec::MAX_VALUE;
use super::request::{How, Key, Store};

/// Up to this many seconds an expiry counts from now, beyond it it is a Unix time.
const RELATIVE: u64 = 60 * 60 * 24 * 30;
/// What an item costs beside its key and its value, in bytes: an entry in the list, a place in the table, allocations.
const OVERHEAD: usize = 200;
const TOO_LARGE: &str = "SERVER_ERROR object too large for cache";

/// An item as it is handed out.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) value: Bytes,
    pub(crate) flags: u32,
    /// No two versions of any items have the same.
    pub(crate) cas: u64,
    expires: Option<Instant>,
}

/// One lock around everything: no command holds it for longer than it takes to look up one key.
pub(crate) struct Cache {
    items: Mutex<Items>,
    started: Instant,
}

struct Items {
    map: LruCache<Key, Item>,
    bytes: usize,
    limit: usize,
    last_cas: u64,
    /// Items of before the last `flush_all` are gone: those up to this one.
    flushed: u64,
    /// When the next one is due.
    flush_at: Option<Instant>,
    stats: Stats,
}

#[derive(Clone, Copy, Default)]
struct Stats {
    cmd_get: u64,
    cmd_set: u64,
    cmd_touch: u64,
    cmd_flush: u64,
    get_hits: u64,
    total_items: u64,
    evictions: u64,
}

impl Cache {
    /// With so many bytes at most, as far as they can be counted.
    pub(crate) fn new(limit: usize) -> Self {
        let map = LruCache::unbounded();
        let stats = Stats::default();
        let items = Items { map, bytes: 0, limit, last_cas: 0, flushed: 0, flush_at: None, stats };
        Self { items: Mutex::new(items), started: Instant::now() }
    }

    fn items(&self) -> MutexGuard<'_, Items> {
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        if items.flush_at.is_some_and(|at| at <= Instant::now()) {
            // Nothing was stored since it was due: that would have come by here.
            items.flush_at = None;
            items.flushed = items.last_cas;
        }
        items
    }

    pub(crate) fn get(&self, key: &[u8], touch: Option<i64>) -> Option<Item> {
        let mut items = self.items();
        let mut item = items.find(key);
        if let (Some(item), Some(exptime)) = (&mut item, touch) {
            item.expires = deadline(exptime);
        }
        let item = item.cloned();
        items.stats.cmd_get += 1;
        items.stats.get_hits += u64::from(item.is_some());
        items.stats.cmd_touch += u64::from(touch.is_some());
        item
    }

    pub(crate) fn store(&self, store: Store) -> &'static str {
        let mut items = self.items();
        items.stats.cmd_set += 1;
        let Some(value) = store.value else {
            // What it was to replace is out of date.
            if store.how == How::Set {
                items.remove(&store.key);
            }
            return TOO_LARGE;
        };
        let new = Item { value, flags: store.flags, cas: 0, expires: deadline(store.exptime) };
        let old = items.find(&store.key);
        let joined = |first: &Bytes, second: &Bytes| Bytes::from([&first[..], &second[..]].concat());
        let item = match (store.how, old) {
            (How::Add, Some(_)) | (How::Replace | How::Append | How::Prepend, None) => return "NOT_STORED",
            (How::Append, Some(old)) => Item { value: joined(&old.value, &new.value), ..old.clone() },
            (How::Prepend, Some(old)) => Item { value: joined(&new.value, &old.value), ..old.clone() },
            (How::Cas(_), None) => return "NOT_FOUND",
            (How::Cas(cas), Some(old)) if cas != old.cas => return "EXISTS",
            _ => new,
        };
        if item.value.len() > MAX_VALUE { TOO_LARGE } else { items.put(store.key, item) }
    }

    pub(crate) fn delete(&self, key: &[u8]) -> &'static str {
        let mut items = self.items();
        let found = items.find(key).is_some();
        items.remove(key);
        if found { "DELETED" } else { "NOT_FOUND" }
    }

    /// Adds to a number, or takes from it: over the top it begins anew, below 0 it does not go.
    pub(crate) fn count(&self, key: Key, delta: u64, up: bool) -> Result<u64, &'static str> {
        let mut items = self.items();
        let item = items.find(&key).cloned().ok_or("NOT_FOUND")?;
        let n = std::str::from_utf8(&item.value).ok().and_then(|text| text.parse::<u64>().ok());
        let n = n.ok_or("CLIENT_ERROR cannot increment or decrement non-numeric value")?;
        let n = if up { n.wrapping_add(delta) } else { n.saturating_sub(delta) };
        items.put(key, Item { value: n.to_string().into(), ..item });
        Ok(n)
    }

    pub(crate) fn touch(&self, key: &[u8], exptime: i64) -> &'static str {
        let mut items = self.items();
        items.stats.cmd_touch += 1;
        let Some(item) = items.find(key) else { return "NOT_FOUND" };
        item.expires = deadline(exptime);
        "TOUCHED"
    }

    pub(crate) fn flush_all(&self, delay: i64) -> &'static str {
        let mut items = self.items();
        items.stats.cmd_flush += 1;
        items.flush_at = Some(deadline(delay).unwrap_or_else(Instant::now));
        "OK"
    }

    pub(crate) fn stats(&self) -> String {
        let items = self.items();
        let stats = items.stats;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let numbers = [
            ("pid", std::process::id().into()),
            ("uptime", self.started.elapsed().as_secs()),
            ("time", now.as_secs()),
            ("cmd_get", stats.cmd_get),
            ("cmd_set", stats.cmd_set),
            ("cmd_touch", stats.cmd_touch),
            ("cmd_flush", stats.cmd_flush),
            ("get_hits", stats.get_hits),
            ("get_misses", stats.cmd_get - stats.get_hits),
            ("curr_items", items.map.len() as u64),
            ("total_items", stats.total_items),
            ("bytes", items.bytes as u64),
            ("limit_maxbytes", items.limit as u64),
            ("evictions", stats.evictions),
        ];
        let mut text = format!("STAT version {}\r\n", env!("CARGO_PKG_VERSION"));
        for (name, n) in numbers {
            text += &format!("STAT {name} {n}\r\n");
        }
        text + "END"
    }
}

impl Items {
    /// An item that is alive. It is now the one used last.
    fn find(&mut self, key: &[u8]) -> Option<&mut Item> {
        let flushed = self.flushed;
        // A dead one stays until its place is needed.
        self.map.get_mut(key).filter(|item| item.cas > flushed && item.expires.is_none_or(|at| Instant::now() < at))
    }

    fn put(&mut self, key: Key, item: Item) -> &'static str {
        let size = cost(&key, &item);
        if size > self.limit {
            self.remove(&key);
            return "SERVER_ERROR out of memory storing object";
        }
        self.last_cas += 1;
        self.stats.total_items += 1;
        self.bytes += size;
        let replaced = self.map.push(key, Item { cas: self.last_cas, ..item });
        self.bytes -= replaced.map_or(0, |(key, item)| cost(&key, &item));
        while self.bytes > self.limit
            && let Some((key, item)) = self.map.pop_lru()
        {
            self.bytes -= cost(&key, &item);
            self.stats.evictions += 1;
        }
        "STORED"
    }

    fn remove(&mut self, key: &[u8]) {
        let removed = self.map.pop_entry(key);
        self.bytes -= removed.map_or(0, |(key, item)| cost(&key, &item));
    }
}

fn cost(key: &[u8], item: &Item) -> usize {
    key.len() + item.value.len() + OVERHEAD
}

/// When something expires, as the client sent it: 0 is never, less is at once.
fn deadline(exptime: i64) -> Option<Instant> {
    let now = Instant::now();
    let seconds = match u64::try_from(exptime) {
        Ok(0) => return None,
        Ok(seconds) if seconds <= RELATIVE => Duration::from_secs(seconds),
        Ok(unix) => {
            let today = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            Duration::from_secs(unix).saturating_sub(today)
        }
        Err(_) => Duration::ZERO,
    };
    // What is beyond the clock's range never comes.
    now.checked_add(seconds)
}
