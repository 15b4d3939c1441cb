//! What the load generator tells the runner.

use serde::{Deserialize, Serialize};

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Answered frames, or connections
    pub requests: u64,
    pub seconds: f64,
    pub per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    /// The server's CPU time for one of them
    pub server_us: Option<f64>,
    /// The share of the time in which the server had a CPU
    pub server_busy: Option<f64>,
    pub client_busy: f64,
}

/// A phase of idle connections that is over.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Phase {
    pub phase: String,
    pub conns: usize,
    pub seconds: f64,
    /// What the server's resident memory has grown by since before the connections, for each of
    /// them
    pub bytes_each: Option<f64>,
}
