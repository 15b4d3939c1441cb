//! Limits on the number of connections with log lines.

use tracing::Level;

use super::at_level;
use crate::event::{Limit, event};

/// The limits of one layer.
#[derive(Debug)]
pub(super) struct LineLimits {
    refused: Limit,
    others: Option<Limit>,
}

impl LineLimits {
    pub(super) fn new(level: Level, max: Option<usize>) -> Self {
        let refused = move |suppressed: u64| {
            at_level!(level, AT => {
                event!(target: "ropewalk::connection", AT, suppressed, "more connections were refused");
            });
        };
        let others = move |suppressed: u64| {
            at_level!(level, AT => {
                event!(target: "ropewalk::connection", AT, suppressed, "more connections were opened");
            });
        };
        Self {
            refused: Limit::new(level, refused),
            // One more, for the line with the count.
            others: max.map(|max| Limit::of(max.saturating_add(1), level, others)),
        }
    }

    /// Whether a connection has lines.
    pub(super) fn pass(&self, refused: bool) -> bool {
        if refused { self.refused.pass() } else { self.others.as_ref().is_none_or(Limit::pass) }
    }
}
