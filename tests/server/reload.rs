//! Resources that are read again while the server runs: all of them or none.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ropewalk::server::{Reload, Serve, reload_fn};
use ropewalk::{Error, Lines, Result, Server, framed, memory, reply_fn};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

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
    handle.reload().await.unwrap();
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
                    sleep(Duration::from_secs(60)).await;
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
