//! The task that enforces the budget as time passes.

use std::sync::Arc;

use ropewalk_middleware::event::aside;
use tokio::task::JoinHandle;
use tokio::time::sleep_until;

use super::{MemoryUse, PATIENCE};
use crate::server::books::shared::Shared;

/// The task that watches a server's memory while it is short. Dropping this ends the task.
pub(in crate::server) struct Keeping(JoinHandle<()>);

impl Drop for Keeping {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Watches a server's memory while it is short.
pub(in crate::server) fn keep(shared: &Arc<Shared>) -> Keeping {
    let shared = Arc::clone(shared);
    Keeping(tokio::spawn(async move {
        loop {
            shared.memory.became_short.notified().await;
            while let Some(since) = shared.memory.short_since() {
                sleep_until(since + PATIENCE).await;
                shared.memory.look(&shared.registry, true);
                let MemoryUse { in_use, budget, aborted } = shared.memory.in_use();
                aside!(
                    WARN,
                    in_use,
                    budget,
                    aborted,
                    "memory was short: the largest connections had to wait, or were aborted"
                );
            }
        }
    }))
}
