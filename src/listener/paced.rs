//! A source of connections that may fail, made into a listener that does not.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ropewalk_middleware::event::tracing::Level;
use ropewalk_middleware::event::{Limit, aside, event};
use ropewalk_middleware::{Addr, Peer, Stream};
use rustix::process::{Resource, getrlimit};
use socket2::{SockAddr, Socket};
use tokio::time::{Sleep, sleep};

use super::accept_error::{Fault, Next, Pace, classify};
use super::{HandOver, Listener};

/// How many descriptors the last call leaves to those who answer; of a small limit a sixteenth.
const SPARE: u64 = 64;

/// What the kernel's listeners have in common.
pub(crate) trait Accept: Send + 'static {
    /// The next connection, or why there is none.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, Peer)>>;

    /// Takes a connection that waits, asked of the kernel and not of the runtime, which may have yet to learn of it;
    /// `WouldBlock` when none does.
    fn take_waiting(&self) -> io::Result<(Socket, SockAddr)>;

    /// Has the runtime watch a connection that was taken so.
    fn watch(socket: Socket, from: &SockAddr) -> io::Result<(Stream, Peer)>;

    /// The address it is bound to.
    fn local_addr(&self) -> Addr;

    /// What another process needs to take it over.
    fn hand_over(&self) -> HandOver<'_>;

    /// Whether what it is bound to is this process's to remove.
    fn set_owner(&mut self, _ours: bool) {}
}

/// A listener over any [`Accept`]: retries and waits as [`Pace`] says.
///
/// At the last call it takes all that waits, whether or not it can be served now, and closes the socket. So new peers are
/// refused from that moment on, and those that had connected are handed out as they are asked for.
pub(crate) struct Paced<A> {
    /// Until the last call.
    inner: Option<A>,
    local: Addr,
    /// The most that can wait in the kernel's backlog.
    backlog: usize,
    /// Taken at the last call.
    held: VecDeque<(Socket, SockAddr)>,
    pace: Pace,
    log: Limit,
    /// It stays here, not in a future, so that a caller that stops polling does not start the wait over.
    wait: Option<Pin<Box<Sleep>>>,
    /// Why it accepts no more, until somebody has asked.
    failure: Option<io::Error>,
    /// Whether there was no descriptor left, until somebody has asked.
    lacks_descriptors: bool,
}

impl<A: Accept> Paced<A> {
    pub(crate) fn new(inner: A, backlog: usize) -> Self {
        let more = |suppressed| event!(WARN, suppressed, "more connections could not be accepted");
        Self {
            local: inner.local_addr(),
            inner: Some(inner),
            backlog,
            held: VecDeque::new(),
            pace: Pace::default(),
            log: Limit::new(Level::WARN, more),
            wait: None,
            failure: None,
            lacks_descriptors: false,
        }
    }

    fn log(&self, error: &io::Error) {
        if self.log.pass() {
            let (listener, error) = (self.local.clone(), error.to_string());
            aside!(WARN, %listener, %error, "a connection could not be accepted");
        }
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, Peer)>> {
        if let Some(inner) = &mut self.inner {
            return inner.poll_accept(cx);
        }
        let held = self.held.pop_front();
        // Nobody is to be woken when nothing is left.
        held.map_or(Poll::Pending, |(socket, from)| Poll::Ready(A::watch(socket, &from)))
    }

    /// Takes what waits. Returns the error that kept it from taking all.
    fn hold(&mut self, inner: &A) -> io::Result<()> {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let last = limit - SPARE.min(limit / 16);
        // Connections that come meanwhile would keep this from ending; a failed attempt is one of a connection that waited.
        for _ in 0..=self.backlog {
            match inner.take_waiting() {
                Ok((socket, from)) => {
                    // The system gives the lowest number that is free, so all below it are in use.
                    let number = u64::try_from(socket.as_raw_fd()).unwrap_or(u64::MAX);
                    self.held.push_back((socket, from));
                    if number >= last {
                        return Err(io::Error::other(
                            "the last descriptors are kept for the connections that are served",
                        ));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if classify(&error) == Fault::Connection => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl<A: Accept> Listener for Paced<A> {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<(Stream, Peer)> {
        loop {
            if let Some(wait) = &mut self.wait {
                ready!(wait.as_mut().poll(cx));
                self.wait = None;
            }
            let error = match ready!(self.poll_inner(cx)) {
                Ok(accepted) => {
                    self.pace.succeeded();
                    return Poll::Ready(accepted);
                }
                Err(error) => error,
            };
            self.log(&error);
            self.lacks_descriptors |= matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
            match self.pace.failed(&error) {
                Next::Retry => {}
                Next::Yield => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Next::Wait(duration) => self.wait = Some(Box::pin(sleep(duration))),
            }
            if self.pace.has_just_failed_for_good(&error) {
                self.failure = Some(error);
            }
        }
    }

    fn last_call(&mut self) {
        let Some(inner) = self.inner.take() else { return };
        let taken = self.hold(&inner);
        // Closed before anything is said about it.
        drop(inner);
        self.wait = None;
        if let Err(error) = taken {
            self.log(&error);
        }
    }

    fn has_pending(&self) -> bool {
        !self.held.is_empty()
    }

    fn pending(&self) -> usize {
        self.held.len()
    }

    fn failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }

    fn lacks_descriptors(&mut self) -> bool {
        std::mem::take(&mut self.lacks_descriptors)
    }

    fn local_addr(&self) -> Addr {
        self.local.clone()
    }

    fn hand_over(&self) -> Option<HandOver<'_>> {
        self.inner.as_ref().map(Accept::hand_over)
    }

    fn set_owner(&mut self, ours: bool) {
        if let Some(inner) = &mut self.inner {
            inner.set_owner(ours);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::future::poll_fn;
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Wake, Waker};
    use std::time::Duration;

    use ropewalk_middleware::{Addr, Peer, Stream};
    use socket2::{SockAddr, Socket};
    use tokio::time::{Instant, timeout};

    use super::{Accept, HandOver, Paced};
    use crate::Listener;
    use crate::memory::MemoryStream;

    /// Fails with these errors, one a try, then accepts; after `None` as well.
    #[derive(Default)]
    struct Script {
        errors: VecDeque<Option<i32>>,
        tries: Vec<Instant>,
    }

    impl Script {
        fn failing(errors: impl IntoIterator<Item = i32>) -> Paced<Self> {
            Paced::new(Self { errors: errors.into_iter().map(Some).collect(), ..Self::default() }, 1)
        }
    }

    fn tries(listener: &Paced<Script>) -> &[Instant] {
        &listener.inner.as_ref().unwrap().tries
    }

    impl Accept for Script {
        fn poll_accept(&mut self, _: &mut Context<'_>) -> Poll<io::Result<(Stream, Peer)>> {
            self.tries.push(Instant::now());
            Poll::Ready(match self.errors.pop_front().flatten() {
                Some(errno) => Err(io::Error::from_raw_os_error(errno)),
                None => Ok((Stream::boxed(MemoryStream::pair(1).0), Peer::new(Addr::Memory))),
            })
        }

        fn take_waiting(&self) -> io::Result<(Socket, SockAddr)> {
            Err(io::ErrorKind::WouldBlock.into())
        }

        fn watch(_: Socket, _: &SockAddr) -> io::Result<(Stream, Peer)> {
            unreachable!("nothing waits")
        }

        fn local_addr(&self) -> Addr {
            Addr::Memory
        }

        fn hand_over(&self) -> HandOver<'_> {
            unreachable!("a script has no socket")
        }
    }

    async fn accept(listener: &mut impl Listener) {
        poll_fn(|cx| listener.poll_accept(cx)).await;
    }

    /// The milliseconds between one try and the next.
    fn waits(listener: &Paced<Script>) -> Vec<u128> {
        tries(listener).windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect()
    }

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_error_of_a_connections_own_is_retried_at_once() {
        let mut own = vec![
            libc::ECONNABORTED,
            libc::EPROTO,
            libc::ENETDOWN,
            libc::ENETUNREACH,
            libc::EHOSTDOWN,
            libc::EHOSTUNREACH,
            libc::ENOPROTOOPT,
            libc::EOPNOTSUPP,
            libc::ETIMEDOUT,
            libc::EPERM,
            libc::ECONNRESET,
            libc::ECONNREFUSED,
            libc::EINTR,
        ];
        if cfg!(target_os = "linux") {
            own.push(64); // ENONET
        }
        for errno in own {
            let mut listener = Script::failing([errno]);
            let mut cx = Context::from_waker(Waker::noop());
            assert!(listener.poll_accept(&mut cx).is_ready(), "{errno}");
            assert_eq!(tries(&listener).len(), 2, "{errno}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_descriptors_it_waits_ever_longer_up_to_a_limit() {
        let mut listener = Script::failing([libc::EMFILE; 7]);
        accept(&mut listener).await;
        assert_eq!(waits(&listener), [5, 10, 20, 40, 80, 100, 100]);
    }

    #[tokio::test(start_paused = true)]
    async fn want_of_buffers_or_memory_and_unknown_errors_are_waited_out() {
        for errno in [libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, 999] {
            let mut listener = Script::failing([errno]);
            accept(&mut listener).await;
            assert_eq!(waits(&listener), [5], "{errno}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_want_of_a_descriptor_is_told_once() {
        for (errno, lacks) in [(libc::EMFILE, true), (libc::ENFILE, true), (libc::ENOMEM, false), (999, false)] {
            let mut listener = Script::failing([errno]);
            assert!(!listener.lacks_descriptors());
            let mut cx = Context::from_waker(Waker::noop());
            assert!(listener.poll_accept(&mut cx).is_pending());
            assert_eq!(listener.lacks_descriptors(), lacks, "{errno}");
            assert!(!listener.lacks_descriptors());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_sets_the_wait_back() {
        let mut listener = Paced::new(
            Script {
                errors: VecDeque::from([Some(libc::EMFILE), Some(libc::EMFILE), None, Some(libc::EMFILE)]),
                ..Script::default()
            },
            1,
        );
        accept(&mut listener).await;
        accept(&mut listener).await;
        assert_eq!(waits(&listener), [5, 10, 0, 5]);
    }

    #[tokio::test(start_paused = true)]
    async fn ten_thousand_aborted_connections_in_a_row_let_the_others_have_their_turn() {
        let mut listener = Script::failing([libc::ECONNABORTED; 10_000]);
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let mut cx = Context::from_waker(&waker);
        for round in 1..=63 {
            assert!(listener.poll_accept(&mut cx).is_pending());
            assert_eq!(tries(&listener).len(), round * 64);
            assert_eq!(wakes.0.load(Ordering::Relaxed), round, "it asked to be polled again");
        }
        accept(&mut listener).await;
        assert_eq!(tries(&listener).len(), 10_001, "and it never gave up");
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_polls_rarely_does_not_start_the_wait_over() {
        let mut listener = Script::failing([libc::EMFILE; 5]);
        let start = Instant::now();
        while timeout(Duration::from_millis(1), accept(&mut listener)).await.is_err() {}
        assert_eq!(tries(&listener).len(), 6);
        assert!(start.elapsed() <= Duration::from_millis(200), "{:?}", start.elapsed());
    }

    /// How often it says that it has failed, in so many waits.
    async fn failures(listener: &mut Paced<Script>, tries: usize) -> Vec<Option<i32>> {
        let mut failures = Vec::new();
        for _ in 0..tries {
            drop(timeout(Duration::from_millis(101), accept(listener)).await);
            failures.extend(listener.failure().map(|error| error.raw_os_error()));
        }
        failures
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_that_will_never_accept_again_says_so_once() {
        for errno in [libc::EBADF, libc::EINVAL, libc::ENOTSOCK] {
            let mut listener = Script::failing([errno; 1000]);
            assert_eq!(failures(&mut listener, 200).await, [Some(errno)]);
            assert!(tries(&listener).len() < 300, "and it is asked no more often than before");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_error_that_goes_on_for_ten_seconds_is_a_failure_and_want_of_descriptors_is_none() {
        let mut listener = Script::failing([999; 1000]);
        assert_eq!(failures(&mut listener, 50).await, []);
        assert_eq!(failures(&mut listener, 100).await, [Some(999)]);
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
            assert_eq!(failures(&mut Script::failing([errno; 1000]), 500).await, [], "{errno}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_that_accepts_again_may_fail_again() {
        let mut listener = Paced::new(
            Script {
                errors: VecDeque::from([Some(libc::EINVAL), None, Some(libc::EINVAL), None]),
                ..Script::default()
            },
            1,
        );
        assert_eq!(failures(&mut listener, 2).await, [Some(libc::EINVAL), Some(libc::EINVAL)]);
    }
}
