//! The limits of a connection: how much it may hold and how long it waits.

use std::time::Duration;

/// The limits of one connection; each has a default and a method on the leaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// When more bytes of answers than this are queued, they are written before more is decoded or
    /// read.
    pub(crate) high_water: usize,
    /// `feed` fails while this many bytes of answers are unwritten.
    pub(crate) write_limit: usize,
    /// The most raw bytes taken at once.
    pub(crate) raw_limit: u64,
    /// The most bytes a codec that has no limit of its own may leave without finding a frame in
    /// them.
    pub(crate) input_limit: usize,
    /// How long a peer may accept no data while answers wait.
    pub(crate) write_stall: Duration,
    /// How long a frame that has begun may take, plus the same time again for each 64 KiB of it
    /// that have arrived. Deadlines set on the connection replace this one.
    pub(crate) frame: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            high_water: 64 * 1024,
            write_limit: 1024 * 1024,
            raw_limit: 1024 * 1024,
            input_limit: 16 * 1024 * 1024,
            write_stall: Duration::from_secs(30),
            frame: Some(Duration::from_secs(30)),
        }
    }
}
