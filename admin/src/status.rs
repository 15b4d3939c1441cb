//! `/status`: the counts of the server and its endpoints, the rates of the last ten minutes, what
//! layers have counted.

use std::sync::PoisonError;
use std::time::Duration;

use ropewalk::endpoint::PreambleCounts;
use ropewalk::layer::Histogram;
use ropewalk::server::{Counts, EndpointInfo, EndpointState};
use serde_json::{Map, Value, json};

use crate::app::{App, Limit};
use crate::history::{COLUMNS, EVERY};

/// The limit that every server has.
pub(crate) const MAX_CONNECTIONS: &str = "max_connections";

pub(crate) fn status(app: &App) -> Value {
    let server = &app.server;
    let endpoints = server.endpoints();
    let (counts, memory, preambles) = (server.counts(), server.memory(), server.preambles());
    let history = app.history.lock().unwrap_or_else(PoisonError::into_inner);
    let samples: Vec<_> = history.samples().copied().collect();
    drop(history);
    json!({
        "up_seconds": app.began.elapsed().as_secs(),
        "draining": server.is_draining(),
        "active": counts.active(),
        "accepted": counts.accepted(),
        "refused": counts.refused(),
        "closed": closed(&counts),
        "preambles": of_preambles(&preambles),
        "buffers": { "bytes": memory.in_use(), "budget": memory.budget(), "aborted": memory.aborted() },
        "stalls": server.stalls(),
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        "rates": { "every_seconds": EVERY.as_secs(), "columns": COLUMNS, "samples": samples },
        "latency": app.hooks.histograms.iter().map(|(name, calls)| latency(name, calls)).collect::<Vec<_>>(),
        "counters": app.hooks.counters.iter().map(|(name, count)| json!([name, count()])).collect::<Vec<_>>(),
        "limits": limits(app),
    })
}

fn closed(counts: &Counts) -> Map<String, Value> {
    counts.reasons().map(|(reason, n)| (reason.as_str().to_owned(), n.into())).collect()
}

fn endpoint(endpoint: &EndpointInfo) -> Value {
    let counts = endpoint.counts();
    json!({
        "number": endpoint.number(),
        "service": endpoint.service(),
        "address": endpoint.address().to_string(),
        "state": match endpoint.state() {
            EndpointState::Open => "open",
            EndpointState::Paused => "paused",
            EndpointState::Removed => "removed",
            _ => "other",
        },
        "active": counts.active(),
        "accepted": counts.accepted(),
        "refused": counts.refused(),
        "accept_errors": endpoint.accept_errors(),
        "frames_in": endpoint.frames_in(),
        "frames_out": endpoint.frames_out(),
        "bytes_in": endpoint.bytes_in(),
        "bytes_out": endpoint.bytes_out(),
        "closed": closed(counts),
        "preambles": of_preambles(endpoint.preambles()),
    })
}

fn of_preambles(counts: &PreambleCounts) -> Value {
    json!({
        "pending": counts.pending(),
        "passed": counts.passed(),
        "failed": counts.failed(),
        "timed_out": counts.timed_out(),
        "dropped": counts.dropped(),
    })
}

/// Its quantiles, and its buckets by powers of two: the upper end of each in nanoseconds, and the
/// number of calls.
fn latency(name: &str, calls: &Histogram) -> Value {
    let mut buckets: Vec<(u64, u64)> = Vec::new();
    for (below, n) in calls.buckets() {
        let below = nanos(below).next_power_of_two();
        match buckets.last_mut() {
            Some((last, sum)) if *last == below => *sum += n,
            _ => buckets.push((below, n)),
        }
    }
    json!({
        "name": name,
        "calls": calls.count(),
        "p50_ns": nanos(calls.quantile(0.5)),
        "p90_ns": nanos(calls.quantile(0.9)),
        "p99_ns": nanos(calls.quantile(0.99)),
        "max_ns": nanos(calls.quantile(1.0)),
        "buckets": buckets,
    })
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn limits(app: &App) -> Vec<Value> {
    let own = json!([MAX_CONNECTIONS, app.server.max_connections()]);
    let others = app.hooks.limits.iter().map(|Limit { name, get, .. }| json!([name, get()]));
    std::iter::once(own).chain(others).collect()
}
