//! The examples as processes, driven from outside; stock clients among them.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod asked;
mod browser;
#[path = "../encrypted/mod.rs"]
mod encrypted;
#[path = "../generations/mod.rs"]
mod generations;
#[path = "../support/mod.rs"]
mod support;

/// The path of each test begins with this: `cargo test examples` runs them all.
#[path = "."]
mod examples {
    mod admin;
    mod admin_page;
    mod answers;
    mod balance;
    mod chat;
    mod dns;
    mod dns_client;
    mod dns_client_bind;
    mod dns_clients;
    mod dns_zones;
    #[cfg(target_os = "linux")] // Elsewhere the loopback has one address.
    mod hardened;
    mod line_raw;
    mod logfile;
    mod memcached;
    mod memcached_client;
    mod memcached_clients;
    mod memcached_parts;
    mod memcached_stats;
    mod metrics;
    mod port_forward;
    mod process;
    mod redis_client;
    mod scgi;
    mod smtp;
    mod smtp_client;
    mod smtp_client_postfix;
    mod smtp_clients;
    mod smtp_ends;
    mod smtp_parts;
    mod telemetry;
    mod web;
}
