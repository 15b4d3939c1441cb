//! Signals: SIGTERM and SIGINT end a server, SIGUSR2 restarts it, and SIGHUP reloads its
//! certificates.

use std::future::{pending, poll_fn};
use std::io;
use std::task::{Context, Poll};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that a server handles. They are installed before the first endpoint is bound, so
/// that no signal is missed.
pub(in crate::server) struct Signals {
    end: Option<[Signal; 2]>,
    /// How many of these were received.
    ends: u32,
    restart: Option<Signal>,
}

/// The meaning of a received signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum Signalled {
    End,
    Restart,
}

impl Signals {
    pub(in crate::server) fn install(end: bool, restart: bool) -> io::Result<Self> {
        let installed = || {
            Ok::<_, io::Error>([signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?])
        };
        Ok(Self {
            end: end.then(installed).transpose()?,
            ends: 0,
            restart: restart.then(|| signal(SignalKind::user_defined2())).transpose()?,
        })
    }

    /// Waits for the next signal. Cancel safe.
    pub(in crate::server) async fn next(&mut self) -> Signalled {
        poll_fn(|cx| {
            if self.poll_end(cx).is_ready() {
                return Poll::Ready(Signalled::End);
            }
            match self.restart.as_mut().map(|signal| signal.poll_recv(cx)) {
                Some(Poll::Ready(Some(()))) => Poll::Ready(Signalled::Restart),
                _ => Poll::Pending,
            }
        })
        .await
    }

    /// Waits for the next SIGTERM or SIGINT; a SIGUSR2 stays for later. Cancel safe.
    pub(in crate::server) async fn end(&mut self) {
        poll_fn(|cx| self.poll_end(cx)).await;
    }

    /// Whether SIGTERM or SIGINT was received more than once, which means to stop now.
    pub(in crate::server) fn told_again(&self) -> bool {
        self.ends > 1
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for signal in self.end.iter_mut().flatten() {
            if let Poll::Ready(Some(())) = signal.poll_recv(cx) {
                self.ends = self.ends.saturating_add(1);
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}

/// SIGHUP, the signal to reload. If there is nothing to reload it keeps its default action, which
/// ends a process whose terminal is gone.
pub(super) struct Hangup(Option<Signal>);

impl Hangup {
    pub(in crate::server) fn install(wanted: bool) -> io::Result<Self> {
        Ok(Self(if wanted { Some(signal(SignalKind::hangup())?) } else { None }))
    }

    pub(in crate::server) fn is_installed(&self) -> bool {
        self.0.is_some()
    }

    /// Waits for the next one. Cancel safe.
    pub(in crate::server) async fn next(&mut self) {
        match &mut self.0 {
            Some(signal) => drop(signal.recv().await),
            None => pending().await,
        }
    }
}
