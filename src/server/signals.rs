//! SIGTERM and SIGINT, which end a server; SIGHUP, which has it read its certificates again.

use std::future::{pending, poll_fn};
use std::io;
use std::task::{Context, Poll};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end a server. Installed before the first accept, so that none is missed.
pub(super) struct Signals(Option<[Signal; 2]>);

impl Signals {
    pub(super) fn install(wanted: bool) -> io::Result<Self> {
        if !wanted {
            return Ok(Self(None));
        }
        Ok(Self(Some([signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?])))
    }

    /// Waits for the next of them. Cancel safe.
    pub(super) async fn next(&mut self) {
        poll_fn(|cx| self.poll_next(cx)).await;
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for signal in self.0.iter_mut().flatten() {
            if let Poll::Ready(Some(())) = signal.poll_recv(cx) {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}

/// The signal to read files again. Left alone where there are none: by default it ends a process whose terminal is gone.
pub(super) struct Hangup(Option<Signal>);

impl Hangup {
    pub(super) fn install(wanted: bool) -> io::Result<Self> {
        Ok(Self(if wanted { Some(signal(SignalKind::hangup())?) } else { None }))
    }

    /// Waits for the next one. Cancel safe.
    pub(super) async fn next(&mut self) {
        match &mut self.0 {
            Some(signal) => drop(signal.recv().await),
            None => pending().await,
        }
    }
}
