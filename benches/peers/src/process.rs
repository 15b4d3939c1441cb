//! What Linux tells of a process, and where it lets one run.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::Result;

/// The CPU time all threads of a process have had so far, in nanoseconds.
pub fn cpu_ns(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end while one looks.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        sum += text.split(' ').next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(sum)
}

/// The memory of a process that is resident, in bytes.
pub fn resident(pid: u32) -> Result<u64> {
    // Exact; `statm` is off by some pages a core.
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    field(&text, "Rss:").ok_or_else(|| "no Rss in smaps_rollup".into())
}

/// What the kernel says of the machine's memory, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pub available: u64,
    /// Sockets are in it.
    pub slab: u64,
}

/// The machine's memory now.
pub fn kernel_memory() -> Result<Memory> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let get = |name| field(&text, name).ok_or_else(|| format!("no {name} in meminfo"));
    Ok(Memory { available: get("MemAvailable:")?, slab: get("Slab:")? })
}

/// The value of a line such as `Rss:  12 kB`, in bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok().map(|kilobytes: u64| kilobytes * 1024)
}

/// Calls `f` with the calling thread on these cores only; what it spawns stays there.
pub fn on_cores<T>(cores: &[usize], f: impl FnOnce() -> T) -> Result<T> {
    let before = rustix::thread::sched_getaffinity(None)?;
    let mut set = CpuSet::new();
    cores.iter().for_each(|&core| set.set(core));
    sched_setaffinity(None, &set)?;
    let value = f();
    sched_setaffinity(None, &before)?;
    Ok(value)
}

/// Raises the limit of descriptors to the hard limit; spawned processes inherit it.
pub fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Where it can't be raised, it is as it is.
    let _ = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
