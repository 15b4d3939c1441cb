//! The machine, date and versions of a measurement.

use std::fmt;
use std::fs;
use std::process::Command;

use ropewalk_peers::Result;
use serde::Serialize;

use crate::peers::Peer;

/// The facts about the machine without which a figure has no meaning.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    date: String,
    cores: usize,
    processor: String,
    kernel: String,
    compiler: String,
    command: String,
    versions: Vec<String>,
}

impl Machine {
    /// This one.
    pub fn here<'a>(peers: impl Iterator<Item = &'a Peer>) -> Result<Self> {
        let told = |command: &str, arguments: &[&str]| {
            let output = Command::new(command).args(arguments).output();
            output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
        };
        let processor = fs::read_to_string("/proc/cpuinfo")?;
        let processor = processor.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
        let mut versions: Vec<String> = Vec::new();
        for peer in peers {
            if !versions.contains(&peer.version) {
                versions.push(peer.version.clone());
            }
        }
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        Ok(Self {
            date: told("date", &["-u", "+%F %H:%M UTC"]),
            cores: std::thread::available_parallelism()?.get(),
            processor: processor.trim_start_matches([' ', '\t', ':']).to_owned(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            compiler: told("rustc", &["--version"]),
            command: format!("benches/peers/run {}", arguments.join(" ")).trim().to_owned(),
            versions,
        })
    }

    /// The same, with one more version.
    pub fn with(&self, version: &str) -> Self {
        let mut machine = self.clone();
        machine.versions.push(version.to_owned());
        machine
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { date, cores, processor, kernel, compiler, command, versions } = self;
        write!(f, "{date}; {cores} cores ({processor}); Linux {kernel}; {compiler}; `{command}`.")?;
        if versions.is_empty() { Ok(()) } else { write!(f, "\n\nVersions: {}.", versions.join("; ")) }
    }
}
