//! What layers ask of the allocator, which counts for the whole process.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../it/common.rs"]
#[allow(dead_code, reason = "it uses a part of them")]
mod common;

mod frames;
mod idle_bytes;

use std::alloc::System;
use std::sync::{Mutex, MutexGuard, PoisonError};

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Held by each test from beginning to end: one at a time is measured.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}
