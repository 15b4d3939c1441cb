//! Connections that are drained by a handle while the server runs.

use std::sync::{Arc, Weak};
use std::time::Duration;

use ropewalk_middleware::ConnectionInfo;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::server::books::shared::Shared;
use crate::wire::after;

/// How often the task that keeps the deadlines looks whether connections have gone, so that it does
/// not outlive the last of them by more than this.
const LOOK: Duration = Duration::from_secs(1);

/// Drains some connections, and aborts those still open after `within`.
pub(in crate::server) fn drain_these(
    shared: &Arc<Shared>,
    connections: &[ConnectionInfo],
    within: Duration,
) {
    connections.iter().for_each(ConnectionInfo::drain);
    // Before the server runs it has no connections.
    let Some(runtime) = shared.runtime.get() else { return };
    let until = {
        // A handle may be used by any thread, and a test may have paused the runtime's clock.
        let _there = runtime.enter();
        after(Instant::now(), within)
    };
    if shared.deadlines.note(connections, until) {
        let changed = Arc::clone(&shared.deadlines.changed);
        drop(runtime.spawn(keep(Arc::downgrade(shared), changed)));
    } else {
        shared.deadlines.changed.notify_one();
    }
}

async fn keep(shared: Weak<Shared>, changed: Arc<Notify>) {
    loop {
        let Some(server) = shared.upgrade() else { return };
        let Some(next) = server.deadlines.look(&server.registry) else { return };
        drop(server);
        let wake = next.min(Instant::now() + LOOK);
        tokio::select! {
            biased;
            () = changed.notified() => {}
            () = sleep_until(wake) => {}
        }
    }
}
