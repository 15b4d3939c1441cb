//! Resources that are read again while the server runs: all of them or none.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use bytes::Bytes;
use ropewalk::server::{Reload, Serve, reload_fn};
use ropewalk::{Error, Lines, Result, Server, framed, memory, reply_fn};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::harness::until;

/// Longer than anything takes. Under a paused clock it costs no time.
const LONG: Duration = Duration::from_secs(3600);

/// A number that is read from one place and in force in another.
#[derive(Clone, Default)]
struct Number(Arc<(AtomicUsize, AtomicUsize)>);

impl Number {
    fn write(&self, n: usize) {
        self.0.0.store(n, Ordering::SeqCst);
    }

    fn in_force(&self) -> usize {
        self.0.1.load(Ordering::SeqCst)
    }
}

impl Reload for Number {
    type State = usize;

    async fn read(&self) -> Result<usize> {
        match self.0.0.load(Ordering::SeqCst) {
            0 => Err(Error::other("0 is not allowed")),
            n => Ok(n),
        }
    }

    fn set(&self, n: usize) {
        assert!(n != 13, "an unlucky number");
        self.0.1.store(n, Ordering::SeqCst);
    }
}

fn server(add: impl FnOnce(Server) -> Server) -> Serve {
    let server = add(Server::new().listen(memory::endpoint().0));
    server.serve(framed(Lines::lf(), reply_fn(|line: Bytes| line)))
}

#[tokio::test(start_paused = true)]
async fn all_resources_are_reloaded_or_none() {
    let (one, two) = (Number::default(), Number::default());
    let handle = server(|server| server.reload(one.clone()).reload(two.clone())).handle();
    one.write(1);
    two.write(2);
    handle.reload().await.unwrap();
    assert_eq!((one.in_force(), two.in_force()), (1, 2));
    one.write(3);
    two.write(0);
    assert_eq!(handle.reload().await.unwrap_err().to_string(), "0 is not allowed");
    assert_eq!((one.in_force(), two.in_force()), (1, 2), "the old states stay");
    two.write(4);
    handle.reload().await.unwrap();
    assert_eq!((one.in_force(), two.in_force()), (3, 4));
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_one_resource_keeps_no_other_one_from_its_new_state() {
    let (one, two) = (Number::default(), Number::default());
    let handle = server(|server| server.reload(one.clone()).reload(two.clone())).handle();
    one.write(13);
    two.write(2);
    let error = handle.reload().await.unwrap_err().to_string();
    assert!(error.contains("panicked when its new state was set"), "{error}");
    assert_eq!((one.in_force(), two.in_force()), (0, 2));
    let panics = reload_fn(async || -> Result<()> { unreachable!("a panic on purpose") }, |()| ());
    let handle = server(|server| server.reload(two.clone()).reload(panics)).handle();
    two.write(5);
    assert!(handle.reload().await.is_err());
    assert_eq!(two.in_force(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_is_given_up_is_completed_and_of_two_at_once_the_second_stays() {
    let (slow, set) = (Arc::new(AtomicBool::new(true)), Arc::new(Mutex::new(Vec::new())));
    let done = Arc::new(Notify::new());
    let (first, list, told) = (Arc::clone(&slow), Arc::clone(&set), Arc::clone(&done));
    let resource = reload_fn(
        move || {
            let slow = first.swap(false, Ordering::SeqCst);
            async move {
                if slow {
                    sleep(Duration::from_secs(50)).await;
                }
                Ok(slow)
            }
        },
        move |slow| {
            list.lock().unwrap().push(slow);
            told.notify_one();
        },
    );
    let handle = server(|server| server.reload(resource)).handle();
    assert!(timeout(Duration::from_secs(1), handle.reload()).await.is_err(), "it waits");
    handle.reload().await.unwrap();
    assert_eq!(*set.lock().unwrap(), [true, false]);
}

#[tokio::test(start_paused = true)]
async fn a_resource_that_is_never_read_keeps_no_later_reload_from_its_turn() {
    let hangs = Arc::new(AtomicBool::new(true));
    let first = Arc::clone(&hangs);
    let resource = reload_fn(
        move || {
            let hangs = first.swap(false, Ordering::SeqCst);
            async move { if hangs { std::future::pending().await } else { Ok(()) } }
        },
        |()| (),
    );
    let number = Number::default();
    number.write(1);
    let handle = server(|server| server.reload(number.clone()).reload(resource)).handle();
    let error = timeout(LONG, handle.reload()).await.expect("it has a deadline").unwrap_err();
    assert!(error.to_string().contains("60s"), "{error}");
    assert_eq!(number.in_force(), 0, "nothing has changed");
    timeout(LONG, handle.reload()).await.expect("the first one is over").unwrap();
    assert_eq!(number.in_force(), 1);
}

/// The payload of a panic, which panics again when it is dropped.
struct Twice;

impl Drop for Twice {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            std::panic::panic_any("again, on purpose");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_whose_payload_panics_too_keeps_no_other_resource_from_its_new_state() {
    let number = Number::default();
    number.write(1);
    let panics = reload_fn(async || Ok(()), |()| std::panic::panic_any(Twice));
    let handle = server(|server| server.reload(panics).reload(number.clone())).handle();
    let error = handle.reload().await.unwrap_err().to_string();
    assert!(error.contains("panicked when its new state was set"), "{error}");
    assert_eq!(number.in_force(), 1);
}

/// Wakes a thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread, without a runtime.
fn outside<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        std::thread::park_timeout(LONG);
    }
}

#[test]
fn a_reload_runs_on_the_server_whichever_runtime_or_thread_asks_for_it() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let number = Number::default();
    number.write(1);
    let listening = Arc::new(Notify::new());
    let told = Arc::clone(&listening);
    let server =
        server(|server| server.reload(number.clone()).on_listening(move |_| told.notify_one()));
    let handle = server.handle();
    assert!(outside(handle.reload()).is_err(), "nothing could do it before the server runs");
    let running = runtime.spawn(server);
    outside(listening.notified());
    outside(handle.reload()).unwrap();
    assert_eq!(number.in_force(), 1);
    // The runtime that asks ends at once.
    number.write(2);
    let asks = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    asks.block_on(async { drop(futures::poll!(pin!(handle.reload()))) });
    drop(asks);
    runtime.block_on(until("it is completed", || number.in_force() == 2));
    handle.stop();
    runtime.block_on(running).unwrap().unwrap();
    number.write(3);
    runtime.block_on(handle.reload()).unwrap();
    assert_eq!(number.in_force(), 3, "also after its end");
}
