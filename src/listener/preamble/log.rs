//! Log lines of preambles that ended without a connection. Their rate is limited, because a peer
//! can cause any number.

use std::fmt::Display;

use ropewalk_middleware::event::tracing::Level;
use ropewalk_middleware::event::{Limit, aside, event};
use ropewalk_middleware::{Addr, Escaped};

use super::counts::PreambleDrop;

/// The lines of one listener, each kind limited in rate.
#[derive(Clone, Debug)]
pub(super) struct PreambleLog {
    ended: Limit,
    panicked: Limit,
}

impl PreambleLog {
    pub(super) fn new() -> Self {
        let ended =
            |suppressed| event!(DEBUG, suppressed, "more preambles ended without a connection");
        let panicked = |suppressed| event!(ERROR, suppressed, "more preambles panicked");
        Self {
            ended: Limit::new(Level::DEBUG, ended),
            panicked: Limit::new(Level::ERROR, panicked),
        }
    }

    pub(super) fn panicked(&self, peer: &Addr) {
        if self.panicked.pass() {
            let peer = quoted(peer);
            aside!(ERROR, %peer, "a preamble panicked; its connection is closed");
        }
    }

    pub(super) fn dropped(&self, peer: &Addr, reason: PreambleDrop) {
        if self.ended.pass() {
            let peer = quoted(peer);
            aside!(DEBUG, %peer, ?reason, "a preamble was dropped");
        }
    }

    pub(super) fn failed(&self, peer: &Addr, step: &'static str, error: &dyn Display) {
        if self.ended.pass() {
            let peer = quoted(peer);
            let error = quoted(error);
            aside!(DEBUG, %peer, step, %error, "a preamble failed");
        }
    }

    pub(super) fn timed_out(&self, peer: &Addr, step: &'static str) {
        if self.ended.pass() {
            let peer = quoted(peer);
            aside!(DEBUG, %peer, step, "a preamble took too long");
        }
    }
}

/// Data of a peer, escaped for a log line.
fn quoted(text: &dyn Display) -> String {
    format!("{:?}", Escaped::display(text))
}
