//! Tests that set the limit on the descriptors of the process, or count them.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../harness/mod.rs"]
mod harness;

/// The path of each test begins with this: `cargo test descriptors` runs them all.
#[path = "."]
mod descriptors {
    mod admitted;
    mod endpoints;
    mod workers;
}

use std::sync::{Mutex, PoisonError};

use tokio::runtime::Builder;

/// Runs one test at a time, until its runtime has closed all that it had open.
fn alone(test: impl Future<Output = ()>) {
    static ONE: Mutex<()> = Mutex::new(());
    let _alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}
