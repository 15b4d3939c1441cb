//! What to do when accepting fails: whose fault it is, and how long to wait.

use std::io;
use std::time::Duration;

/// The first wait of a row.
const FIRST: Duration = Duration::from_millis(5);

/// The longest wait.
const LONGEST: Duration = Duration::from_millis(100);

/// How many errors in a row are retried before the other tasks get a turn.
const BATCH: u32 = 64;

/// How many errors in a row are retried before even a connection's own errors are waited out. No backlog holds as many
/// broken connections, so by then the error is not any connection's, and retrying it for ever would take a processor.
const STREAK: u32 = 4096;

/// How many errors in a row, of those that are waited out and are not for want of anything, are taken for the listener's
/// end: at the longest wait they take ten seconds.
const HOPELESS: u32 = 100;

/// Whose an accept error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Of the one connection that would have been accepted; the next one may be fine.
    Connection,
    /// Of the listener, or of the machine: no descriptors or no memory left, or an error nobody has heard of. The next
    /// try is likely to fail as well, so there is a wait before it.
    Listener,
}

/// Tells whose an accept error is, by its error number.
///
/// Linux hands errors already pending on the new connection out of `accept`, so the network's errors count as the
/// connection's. An unknown error, or one without a number, is the listener's: taking it for a connection's would spin.
pub(super) fn classify(error: &io::Error) -> Fault {
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
        ) => Fault::Connection,
        #[cfg(any(target_os = "linux", target_os = "android"))]
        Some(libc::ENONET) => Fault::Connection,
        _ => Fault::Listener,
    }
}

/// Whether the socket itself can't accept, and so never will: it is closed, shut down, or none.
fn is_final(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK))
}

/// Whether something has run out, which may be there again at any time.
fn is_want(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Try again at once.
    Retry,
    /// Try again after the other tasks had a turn.
    Yield,
    /// Try again after a wait.
    Wait(Duration),
}

/// The pace of a listener whose accepting fails. It slows down without an end, so the listener is never given up, and
/// the first success brings it back to full speed.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Errors since the last success.
    streak: u32,
    /// The wait before, if there was one since the last success.
    last_wait: Option<Duration>,
    /// Waits since the last success, but for those for want of something.
    waits: u32,
    /// Whether it was taken for good since the last success.
    failed: bool,
}

impl Pace {
    /// What to do after this error.
    pub(super) fn failed(&mut self, error: &io::Error) -> Next {
        self.streak = self.streak.wrapping_add(1);
        if classify(error) == Fault::Listener || self.streak.is_multiple_of(STREAK) {
            let wait = self.last_wait.map_or(FIRST, |last| (last * 2).min(LONGEST));
            self.last_wait = Some(wait);
            self.waits = if is_want(error) { 0 } else { self.waits.saturating_add(1) };
            return Next::Wait(wait);
        }
        if self.streak.is_multiple_of(BATCH) { Next::Yield } else { Next::Retry }
    }

    /// Whether with this error, which was told to [`failed`](Self::failed), the listener shows that it will not accept any
    /// more. True once until the next success: it is asked on, for nothing is lost by that.
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

    use super::{Fault, Next, Pace, classify};

    fn errno(n: i32) -> io::Error {
        io::Error::from_raw_os_error(n)
    }

    #[test]
    fn a_connections_own_errors_are_told_from_the_listeners() {
        for n in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EBADF, libc::EINVAL, libc::ENOTSOCK] {
            assert_eq!(classify(&errno(n)), Fault::Listener, "{n}");
        }
        for n in [libc::ECONNABORTED, libc::EPROTO, libc::EPERM, libc::EINTR] {
            assert_eq!(classify(&errno(n)), Fault::Connection, "{n}");
        }
    }

    #[test]
    fn an_unknown_error_and_one_without_a_number_are_the_listeners() {
        assert_eq!(classify(&errno(999)), Fault::Listener);
        assert_eq!(classify(&io::Error::other("shutting down")), Fault::Listener);
        assert_eq!(classify(&io::ErrorKind::ConnectionAborted.into()), Fault::Listener);
    }

    #[test]
    fn waits_double_to_the_longest_and_start_over_after_a_success() {
        let mut pace = Pace::default();
        let waits: Vec<_> = (0..7).map(|_| pace.failed(&errno(libc::EMFILE))).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 100, 100].map(|ms| Next::Wait(Duration::from_millis(ms))));
        pace.succeeded();
        assert_eq!(pace.failed(&errno(libc::EMFILE)), Next::Wait(Duration::from_millis(5)));
    }

    #[test]
    fn an_error_that_never_ends_is_waited_out_even_if_it_looks_like_a_connections() {
        let mut pace = Pace::default();
        let next: Vec<_> = (0..10_000).map(|_| pace.failed(&errno(libc::EOPNOTSUPP))).collect();
        assert_eq!(next.iter().filter(|n| matches!(n, Next::Yield)).count(), 10_000 / 64 - 2);
        assert_eq!(next[4095], Next::Wait(Duration::from_millis(5)));
        assert_eq!(next[8191], Next::Wait(Duration::from_millis(10)));
    }
}
