//! The last part of a server's life: its connections finish, or are aborted.

pub(super) mod deadline;
pub(super) mod report;
mod stalls;
pub(super) mod these;

use std::future::poll_fn;
use std::time::Duration;

use ropewalk_middleware::event::aside;
use tokio::time::{sleep, sleep_until};

use super::accept::front::Front;
use super::books::shared::{Phase, Shared};
use super::run::signals::Signals;

/// How long aborted connections may take to be gone. They are gone at once, unless a handler blocks
/// its thread.
pub(super) const GONE: Duration = Duration::from_secs(1);

/// Waits for the connections to finish, until the deadline or a stop; then aborts those that are
/// left. If a handle or a hot restart began the drain, the first signal shortens it to at most
/// `drain` from then on.
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
    // The preambles under way are dropped with them.
    if let Some(front) = &mut front {
        front.close();
    }
    let left = shared.counts().active();
    shared.abort_all();
    if left > 0 {
        aside!(WARN, connections = left, "aborting the connections that are left");
    }
    tokio::select! {
        biased;
        () = all_gone(shared, &mut front) => return,
        // Set by the thread in `deadline.rs` if all threads of the runtime are blocked, and with
        // them its clock.
        _ = phase.wait_for(|phase| *phase == Phase::Abandoned) => {}
        () = sleep(GONE) => {}
    }
    let left = shared.counts().active();
    aside!(ERROR, connections = left, "abandoning connections whose handlers block their thread");
}

/// Handles a signal during a drain: a second one stops the server now, the first one shortens the
/// drain to at most `within`.
pub(super) fn end(shared: &Shared, signals: &Signals, within: Duration) {
    if signals.told_again() {
        shared.stop();
    } else {
        shared.hasten_drain(within);
        aside!(INFO, "received SIGTERM or SIGINT while draining; send it again to abort now");
    }
}

/// Waits until the last connection is gone, including those that were accepted and not served yet
/// when the listeners closed. Cancel safe.
async fn all_gone(shared: &Shared, front: &mut Option<Front>) {
    if let Some(front) = front {
        poll_fn(|cx| front.poll_pending(cx)).await;
    }
    *front = None;
    shared.wait_idle().await;
}
