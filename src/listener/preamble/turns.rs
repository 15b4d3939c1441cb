//! Turns to compute, so that many handshakes leave time for all other tasks.

use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;
use tokio::sync::oneshot;
use tokio::task::yield_now;

use super::fair::Fair;

/// The turns of one listener: as many at once as its runtime has threads.
///
/// The holder of a turn computes until it waits for its peer, and returns the turn when the runtime
/// has completed a round: by then all other tasks have been polled, and I/O and timers checked. So
/// a thousand handshakes that become ready at once delay other tasks by no more than one handshake
/// on each thread. Addresses have their turns one after another.
#[derive(Clone, Debug)]
pub(crate) struct Turns(Arc<Mutex<TurnsState>>);

#[derive(Debug)]
struct TurnsState {
    free: usize,
    waiting: Fair<oneshot::Sender<Turn>>,
}

/// One turn; returned when it is dropped.
#[derive(Debug)]
struct Turn(Turns);

impl Turns {
    /// At most `at_once` turns at the same time.
    pub(crate) fn new(at_once: usize) -> Self {
        Self(Arc::new(Mutex::new(TurnsState { free: at_once.max(1), waiting: Fair::new() })))
    }

    /// Runs a future that polls for a peer at this address: each poll of it takes a turn.
    pub(crate) async fn run<F: Future>(&self, host: Option<IpAddr>, future: F) -> F::Output {
        let mut future = pin!(future);
        let woken = Arc::new(Woken { is_woken: AtomicBool::new(true), task: AtomicWaker::new() });
        let waker = Waker::from(Arc::clone(&woken));
        loop {
            woken.wait().await;
            let turn = self.take(host).await;
            let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
            yield_now().await;
            drop(turn);
            if let Poll::Ready(output) = polled {
                return output;
            }
        }
    }

    async fn take(&self, host: Option<IpAddr>) -> Turn {
        loop {
            let turn = {
                let mut state = self.lock();
                if state.free > 0 {
                    state.free -= 1;
                    return Turn(self.clone());
                }
                let (give, turn) = oneshot::channel();
                state.waiting.push(host, give);
                turn
            };
            if let Ok(turn) = turn.await {
                return turn;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, TurnsState> {
        // No code under the lock panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        loop {
            let next = {
                let mut state = self.0.lock();
                let Some(next) = state.waiting.pop() else {
                    state.free += 1;
                    return;
                };
                next
            };
            // Futures that were dropped meanwhile are skipped. One that is dropped at this moment
            // drops the turn, which passes it on.
            if !next.is_closed() {
                drop(next.send(Self(self.0.clone())));
                return;
            }
        }
    }
}

/// Whether a future was woken since it was polled last.
struct Woken {
    is_woken: AtomicBool,
    task: AtomicWaker,
}

impl Woken {
    async fn wait(&self) {
        poll_fn(|cx| {
            self.task.register(cx.waker());
            if self.is_woken.swap(false, Ordering::AcqRel) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_woken.store(true, Ordering::Release);
        self.task.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::future::poll_fn;
    use std::net::{IpAddr, Ipv4Addr};
    use std::task::Poll;

    use futures::future::join_all;
    use tokio::task::{LocalSet, spawn_local, yield_now};

    use super::Turns;

    fn host(n: u8) -> Option<IpAddr> {
        Some(Ipv4Addr::new(192, 0, 2, n).into())
    }

    #[tokio::test]
    async fn of_a_thousand_that_compute_at_once_others_wait_for_one_at_a_time() {
        for at_once in [1, 4] {
            let turns = Turns::new(at_once);
            let computed = &*Box::leak(Box::new(Cell::new(0)));
            let local = LocalSet::new();
            local.spawn_local(async move {
                let crowd = (0..1000).map(|_| {
                    let turns = turns.clone();
                    spawn_local(async move {
                        turns.run(host(1), async { computed.set(computed.get() + 1) }).await;
                    })
                });
                join_all(crowd.collect::<Vec<_>>()).await;
            });
            local
                .run_until(async {
                    while computed.get() < 1000 {
                        let before = computed.get();
                        yield_now().await;
                        // A turn ends in one round and is passed on in the next one.
                        assert!(
                            computed.get() - before <= 2 * at_once,
                            "{} in one round",
                            computed.get() - before
                        );
                    }
                })
                .await;
            local.await;
        }
    }

    #[tokio::test]
    async fn addresses_have_their_turns_one_after_another() {
        let turns = Turns::new(1);
        let order = &RefCell::new(Vec::new());
        let crowd = [1, 1, 1, 1, 2, 2]
            .map(|n| turns.run(host(n), async move { order.borrow_mut().push(n) }));
        // Polled in this order, the first one has its turn before the others ask for theirs.
        join_all(crowd.map(Box::pin)).await;
        assert_eq!(*order.borrow(), [1, 1, 2, 1, 2, 1]);
    }

    #[tokio::test]
    async fn one_that_is_dropped_while_it_waits_or_computes_gives_its_turn_on() {
        let turns = Turns::new(1);
        let polls = Cell::new(0);
        let never = || {
            turns.run(
                host(1),
                poll_fn(|_| {
                    polls.set(polls.get() + 1);
                    Poll::<()>::Pending
                }),
            )
        };
        let mut first = Box::pin(never());
        let mut second = Box::pin(never());
        let mut third = Box::pin(never());
        assert!(futures::poll!(&mut first).is_pending());
        assert!(futures::poll!(&mut second).is_pending());
        assert!(futures::poll!(&mut third).is_pending());
        assert_eq!(polls.get(), 1, "one has its turn, the others wait");
        drop(second);
        drop(first);
        assert!(futures::poll!(&mut third).is_pending());
        assert_eq!(polls.get(), 2);
        drop(third);
        assert_eq!(turns.lock().free, 1);
    }

    #[tokio::test]
    async fn a_future_is_polled_again_each_time_it_is_woken() {
        let turns = Turns::new(1);
        let mut left = 5;
        let countdown = poll_fn(|cx| {
            cx.waker().wake_by_ref();
            left -= 1;
            if left == 0 { Poll::Ready("done") } else { Poll::Pending }
        });
        assert_eq!(turns.run(host(1), countdown).await, "done");
    }
}
