//! Errors of accepting: whether they concern the connection or the listener, and how long to wait.

use std::io;
use std::time::Duration;

/// The first of several waits.
const FIRST: Duration = Duration::from_millis(5);

/// The longest wait.
const LONGEST: Duration = Duration::from_millis(100);

/// How many errors in a row are retried before the other tasks get a turn.
const BATCH: u32 = 64;

/// How many errors in a row are retried before there is a wait even after errors of connections. No
/// backlog holds this many broken connections, so the error must have another cause, and retrying
/// without end would occupy a processor.
const STREAK: u32 = 4096;

/// After this many waits in a row that are not due to a shortage, the listener is considered
/// failed: at the longest wait they take ten seconds.
const HOPELESS: u32 = 100;

/// The scope of an accept error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// The one connection that would have been accepted; the next one may be fine.
    Connection,
    /// The listener or the machine: no descriptors or no memory left, or an unknown error. The next
    /// try is likely to fail as well, so there is a wait before it.
    Listener,
}

/// Determines the scope of an accept error by its error number.
///
/// On Linux `accept` returns errors that are pending on the new connection, so network errors count
/// as the connection's. An unknown error, or one without a number, counts as the listener's,
/// because retrying it without a wait might spin.
pub(super) fn classify(error: &io::Error) -> Scope {
    match error.raw_os_error() {
        Some(
            libc::ECONNABORTED
            | libc::ECONNREFUSED
            | libc::ECONNRESET
            | libc::EHOSTDOWN
            | libc::EHOSTUNREACH
            | libc::EINTR
            | libc::ENETDOWN
            | libc::ENETRESET
            | libc::ENETUNREACH
            | libc::ENOPROTOOPT
            | libc::EOPNOTSUPP
            // A firewall rule forbids this connection.
            | libc::EPERM
            | libc::EPIPE
            | libc::EPROTO
            | libc::ETIMEDOUT,
        ) => Scope::Connection,
        #[cfg(any(target_os = "linux", target_os = "android"))]
        Some(libc::ENONET) => Scope::Connection,
        _ => Scope::Listener,
    }
}

/// Whether the socket can never accept again: it is closed, shut down, or not a listening socket.
fn is_final(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK))
}

/// Whether it is a shortage of descriptors or memory, which may end at any time.
fn is_want(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    /// Try again at once.
    Retry,
    /// Try again after other tasks had their turns.
    Yield,
    /// Try again after a wait.
    Wait(Duration),
}

/// The pace of retries of a listener whose accepting fails. The listener is retried for ever, with
/// growing waits, and the first success brings it back to full speed.
#[derive(Debug, Default)]
pub(super) struct RetryPace {
    /// Errors since the last success.
    streak: u32,
    /// The last wait, if there was one since the last success.
    last_wait: Option<Duration>,
    /// Waits in a row since the last success or shortage.
    waits: u32,
    /// Whether the listener was considered failed since the last success.
    failed: bool,
}

impl RetryPace {
    /// What to do after this error.
    pub(super) fn failed(&mut self, error: &io::Error) -> Reaction {
        self.streak = self.streak.wrapping_add(1);
        if classify(error) == Scope::Listener || self.streak.is_multiple_of(STREAK) {
            let wait = self.last_wait.map_or(FIRST, |last| (last * 2).min(LONGEST));
            self.last_wait = Some(wait);
            self.waits = if is_want(error) { 0 } else { self.waits.saturating_add(1) };
            return Reaction::Wait(wait);
        }
        if self.streak.is_multiple_of(BATCH) { Reaction::Yield } else { Reaction::Retry }
    }

    /// Whether this error, which was passed to [`failed`](Self::failed), means that the listener
    /// will accept no more. True only once until the next success. The listener is still retried,
    /// which does no harm.
    pub(super) fn has_just_failed_for_good(&mut self, error: &io::Error) -> bool {
        let hopeless = is_final(error) || self.waits >= HOPELESS;
        hopeless && !std::mem::replace(&mut self.failed, hopeless)
    }

    /// Notes an accepted connection.
    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use super::{Reaction, RetryPace, Scope, classify};

    fn errno(n: i32) -> io::Error {
        io::Error::from_raw_os_error(n)
    }

    #[test]
    fn a_connections_own_errors_are_distinguished_from_the_listeners() {
        for n in [
            libc::EMFILE,
            libc::ENFILE,
            libc::ENOBUFS,
            libc::ENOMEM,
            libc::EBADF,
            libc::EINVAL,
            libc::ENOTSOCK,
        ] {
            assert_eq!(classify(&errno(n)), Scope::Listener, "{n}");
        }
        for n in [libc::ECONNABORTED, libc::EPROTO, libc::EPERM, libc::EINTR] {
            assert_eq!(classify(&errno(n)), Scope::Connection, "{n}");
        }
    }

    #[test]
    fn an_unknown_error_and_one_without_a_number_are_the_listeners() {
        assert_eq!(classify(&errno(999)), Scope::Listener);
        assert_eq!(classify(&io::Error::other("shutting down")), Scope::Listener);
        assert_eq!(classify(&io::ErrorKind::ConnectionAborted.into()), Scope::Listener);
    }

    #[test]
    fn waits_double_to_the_longest_and_start_over_after_a_success() {
        let mut pace = RetryPace::default();
        let waits: Vec<_> = (0..7).map(|_| pace.failed(&errno(libc::EMFILE))).collect();
        assert_eq!(
            waits,
            [5, 10, 20, 40, 80, 100, 100].map(|ms| Reaction::Wait(Duration::from_millis(ms)))
        );
        pace.succeeded();
        assert_eq!(pace.failed(&errno(libc::EMFILE)), Reaction::Wait(Duration::from_millis(5)));
    }

    #[test]
    fn an_error_that_never_ends_is_waited_out_even_if_it_looks_like_a_connections() {
        let mut pace = RetryPace::default();
        let next: Vec<_> = (0..10_000).map(|_| pace.failed(&errno(libc::EOPNOTSUPP))).collect();
        assert_eq!(next.iter().filter(|n| matches!(n, Reaction::Yield)).count(), 10_000 / 64 - 2);
        assert_eq!(next[4095], Reaction::Wait(Duration::from_millis(5)));
        assert_eq!(next[8191], Reaction::Wait(Duration::from_millis(10)));
    }
}
