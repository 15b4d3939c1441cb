//! The server as a whole: accepting, serving, limits, memory, workers.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../harness/mod.rs"]
mod harness;
#[path = "../staffed/mod.rs"]
mod staffed;
#[path = "../support/mod.rs"]
mod support;
#[path = "../transports/mod.rs"]
mod transports;
#[path = "../wired/mod.rs"]
mod wired;

/// The path of each test begins with this: `cargo test server` runs them all.
#[path = "."]
mod server {
    mod aborted;
    mod admission;
    mod binding;
    mod capped;
    mod capped_listeners;
    mod capped_peers;
    mod connections;
    mod counts;
    mod drained;
    mod endpoint_counts;
    mod endpoints_running;
    mod errors_outward;
    mod incidents;
    mod lifecycles;
    mod make_room;
    mod make_room_lockout;
    mod memory_budget;
    mod memory_use;
    mod metrics;
    mod panics_connections;
    mod panics_frames;
    mod recognized;
    mod reload;
    mod routed;
    mod serve_on;
    mod serving;
    mod workers;
    mod workers_end;
}
