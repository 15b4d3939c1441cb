//! A source of connections that may fail, made into a listener that does not.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ropewalk_middleware::event::tracing::Level;
use ropewalk_middleware::event::{Limit, aside, event};
use ropewalk_middleware::{Addr, Peer, Stream};
use tokio::time::{Sleep, sleep};

use super::accept_error::{Next, Pace};
use super::{HandOver, Listener};

/// What the kernel's listeners have in common.
pub(crate) trait Accept: Send + 'static {
    /// The next connection, or why there is none.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, Peer)>>;

    /// The next connection that is there already, asked of the kernel and not of the runtime, which may have yet to
    /// learn of it; `WouldBlock` when there is none.
    fn accept_now(&mut self) -> io::Result<(Stream, Peer)>;

    /// The address it is bound to.
    fn local_addr(&self) -> Addr;

    /// What another process needs to take it over.
    fn hand_over(&self) -> HandOver<'_>;

    /// Whether what it is bound to is this process's to remove.
    fn set_owner(&mut self, _ours: bool) {}
}

/// A listener over any [`Accept`]: retries and waits as [`Pace`] says.
pub(crate) struct Paced<A> {
    inner: A,
    pace: Pace,
    log: Limit,
    /// It stays here, not in a future, so that a caller that stops polling does not start the wait over.
    wait: Option<Pin<Box<Sleep>>>,
    /// Whether there was no descriptor left, until somebody has asked.
    lacks_descriptors: bool,
    last_call: bool,
}

impl<A: Accept> Paced<A> {
    pub(crate) fn new(inner: A) -> Self {
        let more = |suppressed| event!(WARN, suppressed, "more connections could not be accepted");
        Self {
            inner,
            pace: Pace::default(),
            log: Limit::new(Level::WARN, more),
            wait: None,
            lacks_descriptors: false,
            last_call: false,
        }
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, Peer)>> {
        let polled = self.inner.poll_accept(cx);
        if polled.is_ready() || !self.last_call {
            return polled;
        }
        match self.inner.accept_now() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            accepted => Poll::Ready(accepted),
        }
    }

    fn log(&self, error: &io::Error) {
        if self.log.pass() {
            let (listener, error) = (self.inner.local_addr(), error.to_string());
            aside!(WARN, %listener, %error, "a connection could not be accepted");
        }
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
        }
    }

    fn last_call(&mut self) {
        self.last_call = true;
    }

    fn lacks_descriptors(&mut self) -> bool {
        std::mem::take(&mut self.lacks_descriptors)
    }

    fn local_addr(&self) -> Addr {
        self.inner.local_addr()
    }

    fn hand_over(&self) -> Option<HandOver<'_>> {
        Some(self.inner.hand_over())
    }

    fn set_owner(&mut self, ours: bool) {
        self.inner.set_owner(ours);
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
            Paced::new(Self { errors: errors.into_iter().map(Some).collect(), ..Self::default() })
        }
    }

    impl Accept for Script {
        fn poll_accept(&mut self, _: &mut Context<'_>) -> Poll<io::Result<(Stream, Peer)>> {
            self.tries.push(Instant::now());
            Poll::Ready(match self.errors.pop_front().flatten() {
                Some(errno) => Err(io::Error::from_raw_os_error(errno)),
                None => Ok((Stream::boxed(MemoryStream::pair(1).0), Peer::new(Addr::Memory))),
            })
        }

        fn accept_now(&mut self) -> io::Result<(Stream, Peer)> {
            Err(io::ErrorKind::WouldBlock.into())
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
        listener.inner.tries.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect()
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
            assert_eq!(listener.inner.tries.len(), 2, "{errno}");
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
        let mut listener = Paced::new(Script {
            errors: VecDeque::from([Some(libc::EMFILE), Some(libc::EMFILE), None, Some(libc::EMFILE)]),
            ..Script::default()
        });
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
            assert_eq!(listener.inner.tries.len(), round * 64);
            assert_eq!(wakes.0.load(Ordering::Relaxed), round, "it asked to be polled again");
        }
        accept(&mut listener).await;
        assert_eq!(listener.inner.tries.len(), 10_001, "and it never gave up");
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_polls_rarely_does_not_start_the_wait_over() {
        let mut listener = Script::failing([libc::EMFILE; 5]);
        let start = Instant::now();
        while timeout(Duration::from_millis(1), accept(&mut listener)).await.is_err() {}
        assert_eq!(listener.inner.tries.len(), 6);
        assert!(start.elapsed() <= Duration::from_millis(200), "{:?}", start.elapsed());
    }
}
