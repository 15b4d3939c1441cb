//! What connections and calls ask of the allocator, which counts for the whole process.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../called/mod.rs"]
mod called;
#[path = "../harness/mod.rs"]
mod harness;

/// The path of each test begins with this: `cargo test allocations` runs them all.
#[path = "."]
mod allocations {
    mod client;
    mod frames;
    mod rooms;
}

use std::alloc::System;
use std::sync::{Mutex, MutexGuard, PoisonError};

use stats_alloc::{INSTRUMENTED_SYSTEM, Stats, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Held by each test from beginning to end: one at a time is measured.
struct Alone {
    _lock: MutexGuard<'static, ()>,
}

impl Alone {
    fn wait() -> Self {
        static ONE: Mutex<()> = Mutex::new(());
        Self { _lock: ONE.lock().unwrap_or_else(PoisonError::into_inner) }
    }
}

/// Measures until it is so, five times at most: the thread of the test runner allocates too, when it
/// begins to wait for a test, and when one has ended.
fn until(mut measure: impl FnMut() -> Stats, is_so: impl Fn(&Stats) -> bool) -> Stats {
    let mut stats = measure();
    for _ in 1..5 {
        if is_so(&stats) {
            break;
        }
        stats = measure();
    }
    stats
}
