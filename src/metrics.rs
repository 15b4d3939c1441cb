//! A server's counts for the `metrics` crate (feature `metrics`), and so for Prometheus and others.
//!
//! The server counts by itself; [`export`] copies its counts to the recorder of the process from
//! time to time. So frames and connections cost nothing more, and each metric is looked up once. No
//! label has a peer, an id or a user's text.
//!
//! | metric | kind | labels |
//! |---|---|---|
//! | `ropewalk_connections_accepted_total` | counter | `listener`, `service` |
//! | `ropewalk_connections_active` | gauge | `listener`, `service` |
//! | `ropewalk_connections_closed_total` | counter | `listener`, `service`, `reason` |
//! | `ropewalk_bytes_total` | counter | `listener`, `service`, `direction` (`in`, `out`) |
//! | `ropewalk_frames_total` | counter | `listener`, `service`, `direction` |
//! | `ropewalk_accept_errors_total` | counter | `listener`, `service` |
//! | `ropewalk_connections_max` | gauge | |
//! | `ropewalk_preambles_total` | counter | `outcome` (`passed`, `failed`, `timed_out`, `dropped`) |
//! | `ropewalk_preambles_pending` | gauge | |
//! | `ropewalk_buffer_bytes` | gauge | |
//! | `ropewalk_buffer_bytes_max` | gauge | |
//! | `ropewalk_stalls_total` | counter | |
//! | `ropewalk_draining` | gauge, 0 or 1 | |
//! | `ropewalk_certificate_expiry_seconds` | gauge, seconds since 1970 | `file` |
//!
//! `listener` is the address of an endpoint, `service` the name given to
//! [`Server::serve_on`](crate::Server::serve_on), or `main`; the values of `reason` are those of
//! [`CloseReason::as_str`]. `ropewalk_buffer_bytes_max` is set only if the memory of buffers has a
//! limit. The certificates are those of
//! [`Handle::certificate_expiries`](crate::Handle::certificate_expiries) (feature `rustls`); one
//! that is not in use any more is NaN. An alarm a week before:
//! `ropewalk_certificate_expiry_seconds - time() < 604800`.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use ropewalk::{Bytes, Lines, Result, Server, framed, metrics, reply_fn};
//!
//! #[tokio::main]
//! async fn main() -> Result {
//!     // Before this, install the recorder: an exporter's `install`.
//!     let serve = Server::new()
//!         .listen("tcp:127.0.0.1:8007")
//!         .serve(framed(Lines::crlf(), reply_fn(|line: Bytes| line)));
//!     tokio::spawn(metrics::export(serve.handle(), Duration::from_secs(5)));
//!     serve.await
//! }
//! ```

#[cfg(feature = "rustls")]
use std::collections::BTreeMap;
#[cfg(feature = "rustls")]
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use metrics::{
    Counter, Gauge, Unit, counter, describe_counter as about_counter,
    describe_gauge as about_gauge, gauge,
};
use ropewalk_middleware::CloseReason;
use tokio::time::{MissedTickBehavior, interval};

use crate::server::{EndpointInfo, Handle};

/// Copies the counts of a server to the recorder of the process, at once and then after each time
/// `every`, until the server has ended and the last counts are copied. The recorder has to be
/// installed before.
///
/// Each copy looks at every open connection; every few seconds is often enough.
///
/// # Cancel safety
///
/// Cancel safe: after it is dropped it copies no more.
///
/// # Panics
///
/// Panics if `every` is zero.
pub async fn export(handle: Handle, every: Duration) {
    let mut exported = Metrics::new();
    let mut ended = pin!(handle.ended());
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = &mut ended => return exported.update(&handle),
            _ = ticks.tick() => exported.update(&handle),
        }
    }
}

/// The metrics of one server, looked up in the recorder. [`export`] is made of it; use it to copy
/// the counts at moments of your own choice.
#[derive(Debug)]
pub struct Metrics {
    server: OfServer,
    /// The metrics of each pair of address and service: an endpoint that is removed and added again
    /// continues its counts.
    endpoints: Vec<(Labels, OfEndpoint)>,
    /// For each endpoint of the server, by its number, the index of its metrics.
    numbers: Vec<usize>,
    /// When certificates expire, by their files.
    #[cfg(feature = "rustls")]
    certificates: BTreeMap<PathBuf, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Describes the metrics to the recorder of the process, or of this thread, and looks up those
    /// of the server.
    pub fn new() -> Self {
        describe();
        Self {
            server: OfServer::new(),
            endpoints: Vec::new(),
            numbers: Vec::new(),
            #[cfg(feature = "rustls")]
            certificates: BTreeMap::new(),
        }
    }

    /// Copies the counts of a server.
    pub fn update(&mut self, handle: &Handle) {
        self.server.update(handle);
        #[cfg(feature = "rustls")]
        self.update_certificates(handle);
        let endpoints = handle.endpoints();
        for endpoint in &endpoints[self.numbers.len().min(endpoints.len())..] {
            let labels = labels(endpoint);
            let known = self.endpoints.iter().position(|(known, _)| *known == labels);
            self.numbers.push(known.unwrap_or(self.endpoints.len()));
            if known.is_none() {
                let metrics = OfEndpoint::new(&labels);
                self.endpoints.push((labels, metrics));
            }
        }
        for (n, (_, metrics)) in self.endpoints.iter().enumerate() {
            let of_these = |(number, _): &(&usize, &EndpointInfo)| **number == n;
            let these =
                self.numbers.iter().zip(&endpoints).filter(of_these).map(|(_, endpoint)| endpoint);
            metrics.update(&these.collect::<Vec<_>>());
        }
    }
}

#[cfg(feature = "rustls")]
impl Metrics {
    fn update_certificates(&mut self, handle: &Handle) {
        let expiries = handle.certificate_expiries();
        for (file, expiry) in &expiries {
            let gauge = self.certificates.entry(file.clone()).or_insert_with(|| {
                gauge!("ropewalk_certificate_expiry_seconds", "file" => file.display().to_string())
            });
            gauge.set(value(expiry.as_secs()));
        }
        for (_, gauge) in self.certificates.iter().filter(|(file, _)| !expiries.contains_key(*file))
        {
            gauge.set(f64::NAN);
        }
    }
}

type Labels = [(&'static str, String); 2];

fn labels(endpoint: &EndpointInfo) -> Labels {
    [("listener", endpoint.address().to_string()), ("service", endpoint.service().to_owned())]
}

#[derive(Debug)]
struct OfServer {
    connections_max: Gauge,
    preambles: [Counter; 4],
    pending: Gauge,
    buffers: Gauge,
    buffers_max: Gauge,
    stalls: Counter,
    draining: Gauge,
}

impl OfServer {
    fn new() -> Self {
        let outcomes = ["passed", "failed", "timed_out", "dropped"];
        Self {
            connections_max: gauge!("ropewalk_connections_max"),
            preambles: outcomes
                .map(|outcome| counter!("ropewalk_preambles_total", "outcome" => outcome)),
            pending: gauge!("ropewalk_preambles_pending"),
            buffers: gauge!("ropewalk_buffer_bytes"),
            buffers_max: gauge!("ropewalk_buffer_bytes_max"),
            stalls: counter!("ropewalk_stalls_total"),
            draining: gauge!("ropewalk_draining"),
        }
    }

    fn update(&self, handle: &Handle) {
        let preambles = handle.preambles();
        let memory = handle.memory();
        self.connections_max.set(value(handle.max_connections() as u64));
        let outcomes =
            [preambles.passed(), preambles.failed(), preambles.timed_out(), preambles.dropped()];
        for (counter, count) in self.preambles.iter().zip(outcomes) {
            counter.absolute(count);
        }
        self.pending.set(value(preambles.pending()));
        self.buffers.set(value(memory.in_use() as u64));
        if let Some(budget) = memory.budget() {
            self.buffers_max.set(value(budget as u64));
        }
        self.stalls.absolute(handle.stalls());
        self.draining.set(f64::from(u8::from(handle.is_draining())));
    }
}

#[derive(Debug)]
struct OfEndpoint {
    accepted: Counter,
    active: Gauge,
    closed: Vec<(CloseReason, Counter)>,
    bytes: [Counter; 2],
    frames: [Counter; 2],
    accept_errors: Counter,
}

impl OfEndpoint {
    fn new(labels: &Labels) -> Self {
        let with = |name, value: &'static str| {
            let [listener, service] = labels.clone();
            [listener, service, (name, value.to_owned())]
        };
        let closed = |reason: CloseReason| {
            (
                reason,
                counter!("ropewalk_connections_closed_total", &with("reason", reason.as_str())),
            )
        };
        let directions = ["in", "out"].map(|direction| with("direction", direction));
        Self {
            accepted: counter!("ropewalk_connections_accepted_total", labels),
            active: gauge!("ropewalk_connections_active", labels),
            closed: CloseReason::ALL.into_iter().map(closed).collect(),
            bytes: directions.clone().map(|labels| counter!("ropewalk_bytes_total", &labels)),
            frames: directions.map(|labels| counter!("ropewalk_frames_total", &labels)),
            accept_errors: counter!("ropewalk_accept_errors_total", labels),
        }
    }

    /// Copies the sums of these endpoints.
    fn update(&self, endpoints: &[&EndpointInfo]) {
        let sum = |count: fn(&EndpointInfo) -> u64| {
            endpoints.iter().map(|endpoint| count(endpoint)).sum::<u64>()
        };
        self.accepted.absolute(sum(|endpoint| endpoint.counts().accepted()));
        self.active.set(value(sum(|endpoint| endpoint.counts().active())));
        for (reason, counter) in &self.closed {
            counter
                .absolute(endpoints.iter().map(|endpoint| endpoint.counts().closed(*reason)).sum());
        }
        let [bytes_in, bytes_out] = &self.bytes;
        bytes_in.absolute(sum(EndpointInfo::bytes_in));
        bytes_out.absolute(sum(EndpointInfo::bytes_out));
        let [frames_in, frames_out] = &self.frames;
        frames_in.absolute(sum(EndpointInfo::frames_in));
        frames_out.absolute(sum(EndpointInfo::frames_out));
        self.accept_errors.absolute(sum(EndpointInfo::accept_errors));
    }
}

/// A gauge's value. Above 2^53 it is rounded.
#[allow(clippy::cast_precision_loss)] // as said
fn value(count: u64) -> f64 {
    count as f64
}

fn describe() {
    about_counter!("ropewalk_connections_accepted_total", "Connections accepted.");
    about_gauge!("ropewalk_connections_active", "Connections open now.");
    about_counter!(
        "ropewalk_connections_closed_total",
        "Connections closed, by the reason of their end."
    );
    about_counter!("ropewalk_bytes_total", Unit::Bytes, "Bytes received and sent.");
    about_counter!("ropewalk_frames_total", "Frames received and sent.");
    about_counter!("ropewalk_accept_errors_total", "Errors of accepting connections.");
    about_gauge!("ropewalk_connections_max", "The most connections that may be open.");
    about_counter!(
        "ropewalk_preambles_total",
        "TLS handshakes and PROXY headers that have ended, by their outcome."
    );
    about_gauge!("ropewalk_preambles_pending", "TLS handshakes and PROXY headers under way.");
    about_gauge!(
        "ropewalk_buffer_bytes",
        Unit::Bytes,
        "Memory in use by the buffers of all connections."
    );
    about_gauge!(
        "ropewalk_buffer_bytes_max",
        Unit::Bytes,
        "The most memory that these buffers may use."
    );
    about_counter!("ropewalk_stalls_total", "Threads of the runtime that were found blocked.");
    about_gauge!("ropewalk_draining", "1 once the server drains or stops, 0 before.");
    about_gauge!(
        "ropewalk_certificate_expiry_seconds",
        Unit::Seconds,
        "When a certificate expires, in seconds since 1970; NaN if it is not in use any more."
    );
}
