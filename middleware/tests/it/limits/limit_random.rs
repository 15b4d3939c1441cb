//! The limit holds, and every slot is released, in any order of the actions of connections, their
//! services and their owners.

use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};

use ropewalk_middleware::{Connection, ConnectionLimit, ConnectionLimitLayer};
use tower::{Layer, Service, service_fn};

use crate::common::connection_on;

const LISTENERS: usize = 3;
const STEPS: usize = 1000;

/// A xorshift generator: each seed is one story, the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 32).unwrap_or(0) % n
    }
}

/// What all services of one story share.
struct Story {
    open: [AtomicUsize; LISTENERS],
    calls: AtomicUsize,
    asked: AtomicUsize,
    /// At most so many are open in all, and of each listener.
    caps: [usize; 2],
}

/// A service that is often not ready, and minds being called when it is not. It fails in every way
/// there is.
struct Moody {
    story: Arc<Story>,
    ready: bool,
}

impl Clone for Moody {
    fn clone(&self) -> Self {
        Self { story: Arc::clone(&self.story), ready: false }
    }
}

impl Service<Connection> for Moody {
    type Response = ();
    type Error = io::Error;
    type Future = Open;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ready = self.ready || self.story.asked.fetch_add(1, SeqCst).is_multiple_of(3);
        if self.ready { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn call(&mut self, connection: Connection) -> Open {
        assert!(self.ready, "called without being ready");
        self.ready = false;
        let n = self.story.calls.fetch_add(1, SeqCst);
        if n.is_multiple_of(29) {
            resume_unwind(Box::new(()));
        }
        Open { story: Arc::clone(&self.story), connection, polled: false, mood: n * 5 % 7 + 7 }
    }
}

/// A connection that is served: it ends well, fails, panics or waits, by its mood.
struct Open {
    story: Arc<Story>,
    connection: Connection,
    polled: bool,
    mood: usize,
}

impl Future for Open {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let story = Arc::clone(&self.story);
        if !self.polled {
            self.polled = true;
            let here = story.open[self.connection.listener()].fetch_add(1, SeqCst) + 1;
            let all: usize = story.open.iter().map(|open| open.load(SeqCst)).sum();
            assert!(
                all <= story.caps[0] && here <= story.caps[1],
                "{all} are open, {here} of this listener"
            );
        }
        self.mood -= 1;
        match self.mood % 7 {
            0 => Poll::Ready(Ok(())),
            1 => Poll::Ready(Err(io::Error::other("moody"))),
            2 if self.mood < 7 => resume_unwind(Box::new(())),
            _ => Poll::Pending,
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.polled {
            self.story.open[self.connection.listener()].fetch_sub(1, SeqCst);
        }
    }
}

fn tell<P: Clone>(layer: &ConnectionLimitLayer<P>, caps: [usize; 2], seed: u64)
where
    ConnectionLimit<Moody, P>: Service<Connection, Response = (), Error = io::Error>,
{
    let (open, calls, asked) = Default::default();
    let moody = Moody { story: Arc::new(Story { open, calls, asked, caps }), ready: false };
    let mut services = vec![layer.layer(moody.clone()), layer.layer(moody)];
    services.push(services[0].clone());
    let mut ready = vec![false; services.len()];
    let mut running = Vec::new();
    let mut random = Random(seed);
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..STEPS {
        let which = random.below(services.len());
        match random.below(4) {
            0 => ready[which] |= services[which].poll_ready(&mut cx).is_ready(),
            1 if std::mem::take(&mut ready[which]) => {
                let connection = connection_on(random.below(LISTENERS), 64).0;
                running.extend(catch_unwind(AssertUnwindSafe(|| {
                    Box::pin(services[which].call(connection))
                })));
            }
            2 if !running.is_empty() => {
                let which = random.below(running.len());
                match catch_unwind(AssertUnwindSafe(|| running[which].as_mut().poll(&mut cx))) {
                    Ok(Poll::Pending) => {}
                    // A place is free when the future is done: that it is never dropped must not
                    // matter.
                    Ok(Poll::Ready(_)) => std::mem::forget(running.swap_remove(which)),
                    Err(_) => drop(running.swap_remove(which)),
                }
            }
            3 if !running.is_empty() && random.below(8) == 0 => {
                drop(running.swap_remove(random.below(running.len())));
            }
            _ => {}
        }
    }
    drop((running, services));
    assert_eq!((layer.active(), layer.available()), (0, layer.max()), "seed {seed}");
}

#[tokio::test(start_paused = true)]
async fn the_cap_holds_and_no_place_is_lost_in_any_order_of_events() {
    let other = service_fn(async |connection: Connection| {
        tokio::task::yield_now().await;
        drop(connection);
        Ok::<_, io::Error>(())
    });
    for seed in 1..40 {
        for max in [1, 2, 5] {
            let limit = || ConnectionLimitLayer::new(max);
            let (total, each) = ([max, max], [usize::MAX, max]);
            tell(&limit(), total, seed);
            tell(&limit().refuse_with("full"), total, seed);
            tell(&limit().refuse_by(other), total, seed);
            tell(&limit().refuse_with("full").per_listener(), each, seed);
            tell(&limit().refuse_by(other).per_listener(), each, seed);
        }
    }
}
