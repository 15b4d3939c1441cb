//! The last part of a server's life: its connections finish, or are aborted.

pub(super) mod deadline;
pub(super) mod report;
mod stalls;

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use ropewalk_middleware::ConnectionInfo;
use ropewalk_middleware::event::aside;
use tokio::time::{sleep, sleep_until};

use super::accept::front::Front;
use super::books::shared::{Phase, Shared};
use super::run::signals::Signals;

/// How long aborted connections may take to be gone. Only a handler that blocks its thread takes
/// any time.
pub(super) const GONE: Duration = Duration::from_secs(1);

/// Waits for the connections to finish, to the deadline or until told to stop now; then aborts what
/// is left. A first signal in a drain that something else began (a handle, a hot restart) gives
/// them `drain` from then on at most.
pub(super) async fn finish(shared: &Shared, front: Front, signals: &mut Signals, drain: Duration) {
    let mut front = Some(front);
    let mut phase = shared.phase.subscribe();
    loop {
        let Phase::Draining(deadline) = *phase.borrow_and_update() else { break };
        tokio::select! {
            biased;
            () = all_gone(shared, &mut front) => return,
            () = signals.end() => end(shared, signals, drain),
            _ = phase.changed() => {}
            () = sleep_until(deadline) => break,
        }
    }
    // With them go the preambles that are under way.
    if let Some(front) = &mut front {
        front.close();
    }
    let left = shared.counts().active();
    shared.abort_all();
    if left > 0 {
        aside!(WARN, connections = left, "the connections that are left are aborted");
    }
    tokio::select! {
        biased;
        () = all_gone(shared, &mut front) => return,
        // Told by a thread of its own where every one of the runtime's is blocked, and its clock
        // with them.
        _ = phase.wait_for(|phase| *phase == Phase::Abandoned) => {}
        () = sleep(GONE) => {}
    }
    let left = shared.counts().active();
    aside!(ERROR, connections = left, "connections whose handlers block are left behind");
}

/// Asks some connections to finish, and aborts what is left of them later.
pub(super) fn drain_these(shared: &Arc<Shared>, connections: &[ConnectionInfo], within: Duration) {
    connections.iter().for_each(ConnectionInfo::drain);
    // Before the server runs there are no connections.
    let Some(runtime) = shared.runtime.get() else { return };
    // Numbers, which keep nothing alive.
    let mut ids: Vec<u64> = connections.iter().map(ConnectionInfo::id).collect();
    ids.sort_unstable();
    let shared = Arc::downgrade(shared);
    drop(runtime.spawn(async move {
        sleep(within).await;
        if let Some(shared) = shared.upgrade() {
            shared.registry.abort_these(&ids);
        }
    }));
}

/// Told to end by a signal in a drain: by a second one to stop now, by the first in no more than
/// this time.
pub(super) fn end(shared: &Shared, signals: &Signals, within: Duration) {
    if signals.told_again() {
        shared.stop();
    } else {
        shared.hasten_drain(within);
        aside!(INFO, "told to end by a signal while draining; a second one stops now");
    }
}

/// Waits until the last connection is gone, and with it the last that was on its way when the
/// listeners closed. Cancel safe.
async fn all_gone(shared: &Shared, front: &mut Option<Front>) {
    if let Some(front) = front {
        poll_fn(|cx| front.poll_pending(cx)).await;
    }
    *front = None;
    shared.wait_idle().await;
}
