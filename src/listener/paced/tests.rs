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

use super::{HandOver, Paced, SocketListener};
use crate::listener::Listener;
use crate::memory::MemoryStream;

/// Fails with these errors, one for each attempt, then accepts; `None` in the list accepts too.
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

impl SocketListener for Script {
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

/// The milliseconds between two attempts.
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
async fn there_is_a_wait_after_a_shortage_of_buffers_or_memory_and_after_unknown_errors() {
    for errno in [libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, 999] {
        let mut listener = Script::failing([errno]);
        accept(&mut listener).await;
        assert_eq!(waits(&listener), [5], "{errno}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_shortage_of_descriptors_is_reported_once() {
    for (errno, lacks) in
        [(libc::EMFILE, true), (libc::ENFILE, true), (libc::ENOMEM, false), (999, false)]
    {
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
            errors: VecDeque::from([
                Some(libc::EMFILE),
                Some(libc::EMFILE),
                None,
                Some(libc::EMFILE),
            ]),
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

/// The failures that it reports during these attempts.
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
async fn an_unknown_error_for_ten_seconds_is_a_failure_and_a_shortage_of_descriptors_is_not() {
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
