//! `/connections`: the open connections, filtered and sorted.

use std::cmp::Reverse;
use std::time::Duration;

use ropewalk::connection::ConnectionState;
use ropewalk::log::Escaped;
use ropewalk::{ConnectionInfo, Handle};
use serde::{Deserialize, Serialize};

use crate::app::Hooks;

/// How many rows there are if the request does not say.
const ROWS: usize = 100;

/// How many characters of a name are shown.
const NAME: usize = 200;

/// How many rows a request may ask for.
const MOST_ROWS: usize = 1000;

/// Letters that are not seen.
const FILLERS: [char; 4] = ['\u{115f}', '\u{1160}', '\u{3164}', '\u{ffa0}'];

/// Which connections, in which order.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Query {
    /// A part of the peer's address or of the name, in any case.
    q: Option<String>,
    listener: Option<usize>,
    state: Option<State>,
    /// In seconds, as the next one.
    min_age: Option<u64>,
    min_idle: Option<u64>,
    #[serde(default)]
    sort: Sort,
    #[serde(default)]
    order: Order,
    limit: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Reading,
    Calling,
    Writing,
    Lingering,
    Other,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Sort {
    Id,
    #[default]
    Age,
    Idle,
    FramesIn,
    FramesOut,
    BytesIn,
    BytesOut,
    Unread,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Order {
    Asc,
    #[default]
    Desc,
}

/// The answer.
#[derive(Debug, Serialize)]
pub(crate) struct List {
    /// How many are open.
    open: usize,
    /// How many of them the query means.
    matched: usize,
    connections: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    id: u64,
    peer: String,
    /// Its name in the user's code.
    name: Option<String>,
    listener: usize,
    state: State,
    draining: bool,
    encrypted: bool,
    age_ms: u64,
    idle_ms: u64,
    frames_in: u64,
    frames_out: u64,
    bytes_in: u64,
    bytes_out: u64,
    unread: usize,
}

impl Query {
    /// The first rows, or the reason why the list is empty.
    pub(crate) fn list(&self, server: &Handle, hooks: &Hooks) -> Result<List, String> {
        let rows = self.limit.unwrap_or(ROWS);
        if rows > MOST_ROWS {
            return Err(format!("`limit` is at most {MOST_ROWS}.\n"));
        }
        let needle = self.q.as_deref().filter(|q| !q.is_empty()).map(str::to_lowercase);
        let mut open = 0;
        let mut found: Vec<(u64, ConnectionInfo)> = Vec::new();
        server.connections_where(|connection| {
            open += 1;
            if self.means(connection)
                && needle.as_deref().is_none_or(|needle| says(connection, hooks, needle))
            {
                found.push((self.key(connection), connection.clone()));
            }
            false
        });
        let matched = found.len();
        let by = |(key, connection): &(u64, ConnectionInfo)| (*key, connection.id());
        if rows > 0 && rows < matched {
            // Only those that are shown are sorted.
            match self.order {
                Order::Asc => found.select_nth_unstable_by_key(rows - 1, by),
                Order::Desc => found.select_nth_unstable_by_key(rows - 1, |one| Reverse(by(one))),
            };
        }
        found.truncate(rows);
        match self.order {
            Order::Asc => found.sort_unstable_by_key(by),
            Order::Desc => found.sort_unstable_by_key(|one| Reverse(by(one))),
        }
        let connections = found.iter().map(|(_, connection)| Row::new(connection, hooks)).collect();
        Ok(List { open, matched, connections })
    }

    fn means(&self, connection: &ConnectionInfo) -> bool {
        let at_least = |time: Duration, seconds: Option<u64>| {
            seconds.is_none_or(|seconds| time.as_secs() >= seconds)
        };
        self.listener.is_none_or(|listener| listener == connection.listener())
            && self.state.is_none_or(|state| state == state_of(connection))
            && at_least(connection.age(), self.min_age)
            && at_least(connection.stats().idle(), self.min_idle)
    }

    fn key(&self, connection: &ConnectionInfo) -> u64 {
        let stats = connection.stats();
        match self.sort {
            Sort::Id => connection.id(),
            Sort::Age => nanos(connection.age()),
            Sort::Idle => nanos(stats.idle()),
            Sort::FramesIn => stats.frames_in(),
            Sort::FramesOut => stats.frames_out(),
            Sort::BytesIn => stats.bytes_in(),
            Sort::BytesOut => stats.bytes_out(),
            Sort::Unread => connection.buffered() as u64,
        }
    }
}

/// Whether the peer or the name has this text.
fn says(connection: &ConnectionInfo, hooks: &Hooks, needle: &str) -> bool {
    peer(connection).to_lowercase().contains(needle)
        || name(connection, hooks).is_some_and(|name| name.to_lowercase().contains(needle))
}

impl Row {
    fn new(connection: &ConnectionInfo, hooks: &Hooks) -> Self {
        let stats = connection.stats();
        Self {
            id: connection.id(),
            peer: peer(connection),
            name: name(connection, hooks),
            listener: connection.listener(),
            state: state_of(connection),
            draining: connection.closing().is_draining(),
            encrypted: connection.tls().is_some(),
            age_ms: millis(connection.age()),
            idle_ms: millis(stats.idle()),
            frames_in: stats.frames_in(),
            frames_out: stats.frames_out(),
            bytes_in: stats.bytes_in(),
            bytes_out: stats.bytes_out(),
            unread: connection.buffered(),
        }
    }
}

/// A Unix socket's peer chooses its path: without control characters, and of bounded length.
fn peer(connection: &ConnectionInfo) -> String {
    Escaped::display(connection.peer()).to_string()
}

fn name(connection: &ConnectionInfo, hooks: &Hooks) -> Option<String> {
    let name = (hooks.name.as_ref()?)(connection)?;
    Some(plain(&name))
}

/// Letters and digits of any script, and printable ASCII; what could hide or turn text around is
/// escaped.
fn plain(name: &str) -> String {
    let mut shown = String::new();
    for (n, c) in name.chars().enumerate() {
        if n == NAME {
            shown.push_str("...");
            break;
        }
        match c {
            ' '..='~' => shown.push(c),
            c if c.is_alphanumeric() && !FILLERS.contains(&c) => shown.push(c),
            c => shown.extend(c.escape_unicode()),
        }
    }
    shown
}

fn state_of(connection: &ConnectionInfo) -> State {
    match connection.state() {
        ConnectionState::Reading => State::Reading,
        ConnectionState::Calling => State::Calling,
        ConnectionState::Writing => State::Writing,
        ConnectionState::Lingering => State::Lingering,
        _ => State::Other,
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
