//! The settings that a running server depends on.

use std::time::Duration;

#[cfg(feature = "cli")]
use ropewalk_middleware::BackgroundLog;

use super::notify::Notify;
use crate::server::restart::{Beside, Restart};

/// The settings that a running server depends on.
pub(in crate::server) struct Options {
    pub(in crate::server) signals: bool,
    pub(in crate::server) drain: Duration,
    /// How long the listeners stay open in a drain; a part of `drain`.
    pub(in crate::server) grace: Duration,
    pub(in crate::server) restart: Option<Restart>,
    /// The server whose restart hands this one's sockets over.
    pub(in crate::server) beside: Option<Beside>,
    pub(in crate::server) notify: Notify,
    /// The exit code if threads are still blocked after the drain's deadline; `None` to go on.
    pub(in crate::server) exit: Option<i32>,
    /// The number of workers; `None` to use the runtime on which the server is awaited.
    pub(in crate::server) workers: Option<usize>,
    /// The server's own log. It is held here so that it is written until the server has ended.
    #[cfg(feature = "cli")]
    pub(in crate::server) log: Option<BackgroundLog>,
}
