//! A thread outside the runtime, because user code may block all threads of the runtime. It keeps
//! the drain's deadline, and reports threads that stand still.

use std::convert::Infallible;
use std::hint::spin_loop;
use std::sync::Arc;
use std::time::Duration;
use std::{io, process, thread, time};

use ropewalk_middleware::event::{aside, event};
use rustix::process::{Signal, getpid, kill_process};
use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::GONE;
use super::stalls::{self, Stalls};
use crate::server::books::shared::{Phase, Shared};
use crate::server::run::options::Options;
use crate::server::run::signals::Signals;

/// How long the server's own runtime may take to notice a signal before this thread acts on it.
const NOTICE: Duration = Duration::from_secs(1);

/// How long a log has to write its last lines before the process exits.
const LAST_LINES: Duration = Duration::from_millis(100);

/// How often it checks whether the connections are gone.
const LOOK: Duration = Duration::from_millis(20);

/// Starts the thread, which runs until the server has ended. If it can't be started, only the
/// runtime keeps the deadline, as long as it is not blocked.
///
/// Under a paused clock the thread is not started: it has only real time, which must neither end a
/// test of paused time nor report a stall in it.
pub(in crate::server) fn keep(shared: &Arc<Shared>, options: &Options) {
    if is_paused() {
        return;
    }
    let runtime = Handle::current();
    shared.incidents.watch(runtime.metrics());
    let keeper = Keeper {
        shared: Arc::clone(shared),
        runtime,
        signals: options.signals && options.exit.is_some(),
        drain: options.drain,
        exit: options.exit,
    };
    if let Err(error) =
        thread::Builder::new().name("ropewalk-drain".to_owned()).spawn(move || keeper.run())
    {
        event!(WARN, %error, "the thread that keeps the drain's deadline can't be started: a blocked runtime may exceed the deadline");
    }
}

/// Whether the clock of this runtime is paused: it stands still while real time passes.
fn is_paused() -> bool {
    let paused = Instant::now();
    let real = time::Instant::now();
    while time::Instant::now() == real {
        spin_loop();
    }
    Instant::now() == paused
}

struct Keeper {
    shared: Arc<Shared>,
    /// The server's runtime, to read its clock, which a test may pause later.
    runtime: Handle,
    /// Whether this thread receives signals too, because a blocked runtime doesn't.
    signals: bool,
    drain: Duration,
    exit: Option<i32>,
}

impl Keeper {
    fn run(self) {
        // The thread has a runtime of its own, for its clock and signals.
        let kept = Builder::new_current_thread()
            .enable_all()
            .build()
            .and_then(|runtime| runtime.block_on(self.keep()));
        if let Err(error) = kept {
            event!(WARN, %error, "only the server's runtime keeps the drain's deadline, because the thread for it failed");
        }
    }

    async fn keep(self) -> io::Result<()> {
        let mut signals = Signals::install(self.signals, false)?;
        tokio::select! {
            biased;
            () = self.see_to_the_end(&mut signals) => Ok(()),
            never = self.watch_for_stalls() => match never {},
        }
    }

    async fn see_to_the_end(&self, signals: &mut Signals) {
        let mut phase = self.shared.phase.subscribe();
        self.wait_for_drain(&mut phase, signals).await;
        self.wait_for_deadline(&mut phase, signals).await;
        // Aborted connections are gone at once, unless their threads are blocked.
        if self.wait_for_end(GONE).await {
            return;
        }
        self.shared.abandon();
        let Some(code) = self.exit else { return };
        // If the server's future was dropped, its drain was not completed, and the server must not
        // end the process.
        if self.wait_for_end(GONE).await || self.shared.outcome.was_dropped() {
            return;
        }
        let connections = self.shared.counts().active();
        aside!(
            ERROR,
            connections,
            code,
            "the drain's deadline has passed and handlers block their threads: exiting"
        );
        exit(code);
    }

    async fn wait_for_drain(&self, phase: &mut watch::Receiver<Phase>, signals: &mut Signals) {
        tokio::select! {
            // The signal is checked first: if it has begun the drain, it must be counted here, or
            // it would be taken for a second one later.
            biased;
            () = signals.end() => {}
            _ = phase.wait_for(|phase| *phase != Phase::Running) => return,
        }
        // If the server's runtime is not blocked, it receives the same signal and begins to drain.
        if timeout(NOTICE, phase.wait_for(|phase| *phase != Phase::Running)).await.is_err() {
            self.shared.begin_drain(self.drain.saturating_sub(NOTICE));
        }
    }

    async fn wait_for_deadline(&self, phase: &mut watch::Receiver<Phase>, signals: &mut Signals) {
        loop {
            let Phase::Draining(deadline) = *phase.borrow_and_update() else { return };
            tokio::select! {
                biased;
                _ = phase.changed() => {}
                () = self.sleep_until(deadline) => return self.shared.stop(),
                () = signals.end() => {
                    if signals.told_again() {
                        return self.shared.stop();
                    }
                    self.shared.hasten_drain(self.drain);
                }
            }
        }
    }

    /// Sleeps until the clock of the server's runtime has reached the deadline too, because a test
    /// may have paused it.
    async fn sleep_until(&self, deadline: Instant) {
        sleep_until(deadline).await;
        while self.now() < deadline {
            sleep(LOOK).await;
        }
    }

    fn now(&self) -> Instant {
        let _there = self.runtime.enter();
        Instant::now()
    }

    /// Waits for at most this time. Returns whether the server has ended with all its connections,
    /// or was dropped.
    async fn wait_for_end(&self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        loop {
            let over = *self.shared.phase.borrow() == Phase::Ended;
            let gone = self.shared.counts().active() == 0;
            if over && (gone || self.shared.outcome.was_dropped()) {
                return true;
            }
            if Instant::now() >= deadline {
                return gone;
            }
            sleep(LOOK).await;
        }
    }

    async fn watch_for_stalls(&self) -> Infallible {
        let mut stalls = Stalls::default();
        loop {
            sleep(stalls::LOOK).await;
            let threads = stalls.look(&self.shared.incidents.runtimes());
            if threads > 0 {
                self.shared.incidents.stalled(threads);
                aside!(
                    WARN,
                    threads,
                    "a thread stands still: a handler blocks it, or computes without yielding"
                );
            }
        }
    }
}

/// Ends the process even if threads block. A log with a thread of its own gets a moment for its
/// last lines. Exiting runs the exit handlers of libraries and flushes standard output, which may
/// block; in that case the process is killed.
fn exit(code: i32) -> ! {
    let killed = || {
        thread::sleep(GONE);
        kill_process(getpid(), Signal::KILL)
    };
    // If this thread can't be started, the exit may block.
    drop(thread::Builder::new().spawn(killed));
    thread::sleep(LAST_LINES);
    process::exit(code)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use futures::poll;
    use rustix::process::{Signal, getpid, kill_process};
    use tokio::signal::unix::{SignalKind, signal};

    use super::Keeper;
    use crate::server::books::max::MaxConnections;
    use crate::server::books::shared::{Phase, Shared};
    use crate::server::run::reload::Reloads;

    /// The server receives the signal as well, and may have begun to drain before this thread sees
    /// it.
    #[tokio::test]
    async fn the_signal_that_began_a_drain_is_not_taken_for_a_second_one() {
        let mut heard = signal(SignalKind::terminate()).unwrap();
        // Repeated, because `select!` could choose between two ready branches at random.
        for _ in 0..20 {
            let shared = Shared::new(
                MaxConnections::set_to(1),
                None,
                1,
                usize::MAX,
                false,
                1,
                Reloads::default(),
            );
            let drain = Duration::from_secs(60);
            let runtime = tokio::runtime::Handle::current();
            let keeper =
                Keeper { shared: Arc::clone(&shared), runtime, signals: true, drain, exit: None };
            let mut keeping = Box::pin(keeper.keep());
            assert!(poll!(&mut keeping).is_pending());
            kill_process(getpid(), Signal::TERM).unwrap();
            heard.recv().await.unwrap();
            shared.begin_drain(drain);
            assert!(poll!(&mut keeping).is_pending());
            assert!(matches!(*shared.phase.borrow(), Phase::Draining(_)));
        }
    }
}
