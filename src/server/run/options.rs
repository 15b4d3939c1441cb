//! The settings of a server that its running depends on.

use std::time::Duration;

#[cfg(feature = "cli")]
use ropewalk_middleware::BackgroundLog;

use super::notify::Notify;
use crate::server::restart::{Beside, Restart};

/// What a server was told about its running.
pub(in crate::server) struct Options {
    pub(in crate::server) signals: bool,
    pub(in crate::server) drain: Duration,
    /// How much of that the listeners stay open.
    pub(in crate::server) grace: Duration,
    pub(in crate::server) restart: Option<Restart>,
    /// The server whose restart hands this one's sockets over.
    pub(in crate::server) beside: Option<Beside>,
    pub(in crate::server) notify: Notify,
    /// The code to exit with when the drain's deadline finds threads blocked.
    pub(in crate::server) exit: Option<i32>,
    /// How many threads of the server's own accept and serve; without any the runtime it is awaited
    /// on does.
    pub(in crate::server) workers: Option<usize>,
    /// The log that is the server's own. Held here, it is written until the server is over.
    #[cfg(feature = "cli")]
    pub(in crate::server) log: Option<BackgroundLog>,
}
