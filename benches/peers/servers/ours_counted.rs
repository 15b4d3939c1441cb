//! As `ours`, with every allocation counted: each line on the standard input is answered with the bytes that are
//! allocated now.

use std::alloc::System;
use std::io::Write;

use ropewalk_peers::Result;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

mod ropewalk_echo;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() -> Result {
    std::thread::spawn(|| {
        for _ in std::io::stdin().lines() {
            let stats = ALLOCATOR.stats();
            println!("{}", stats.bytes_allocated.saturating_sub(stats.bytes_deallocated));
            let _ = std::io::stdout().flush();
        }
    });
    ropewalk_echo::main()
}
