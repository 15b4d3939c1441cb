//! As `ours`, with every allocation counted: each line on the standard input is answered with the
//! bytes that are allocated now, and with how often something was allocated or grown so far.

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
            let bytes = stats.bytes_allocated.saturating_sub(stats.bytes_deallocated);
            println!("{bytes} {}", stats.allocations + stats.reallocations);
            let _ = std::io::stdout().flush();
        }
    });
    ropewalk_echo::main()
}
