//! The limits of the log lines that connections cause.

use ropewalk_middleware::event::tracing::Level;
use ropewalk_middleware::event::{Limit, event};

/// The limits of the lines that connections may cause, as a number per second.
#[derive(Debug)]
pub(in crate::server) struct LogLimits {
    pub(in crate::server) errors: Limit,
    pub(in crate::server) panics: Limit,
}

impl Default for LogLimits {
    fn default() -> Self {
        let errors = |suppressed| event!(DEBUG, suppressed, "more connections ended by an error");
        let panics = |suppressed| event!(ERROR, suppressed, "more panics of connections' services");
        Self { errors: Limit::new(Level::DEBUG, errors), panics: Limit::new(Level::ERROR, panics) }
    }
}
