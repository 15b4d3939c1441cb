//! The drain's deadline, kept by a thread of its own: user code may block every thread of the runtime.

use std::sync::Arc;
use std::time::Duration;
use std::{io, process, thread};

use ropewalk_middleware::event::{aside, event};
use rustix::process::{Signal, getpid, kill_process};
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::drain::GONE;
use super::run::Options;
use super::shared::{Phase, Shared};
use super::signals::Signals;

/// How long the server's own runtime may take to notice a signal before this thread acts on it.
const NOTICE: Duration = Duration::from_secs(1);

/// How often it looks whether the connections are gone.
const LOOK: Duration = Duration::from_millis(20);

/// Keeps the deadline of this server's drain, to its end. Without a thread it is kept by the runtime alone, as long as
/// that one is not blocked.
pub(super) fn keep(shared: &Arc<Shared>, options: &Options) {
    let keeper = Keeper {
        shared: Arc::clone(shared),
        signals: options.signals && options.exit.is_some(),
        drain: options.drain,
        exit: options.exit,
    };
    if let Err(error) = thread::Builder::new().name("ropewalk-drain".to_owned()).spawn(move || keeper.run()) {
        event!(WARN, %error, "no thread to keep the drain's deadline: blocked handlers may outstay it");
    }
}

struct Keeper {
    shared: Arc<Shared>,
    /// Whether signals are heard here too: a runtime that is blocked hears none.
    signals: bool,
    drain: Duration,
    exit: Option<i32>,
}

impl Keeper {
    fn run(self) {
        // A runtime of its own, with a clock and signals of its own.
        match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                if let Err(error) = runtime.block_on(self.keep()) {
                    event!(WARN, %error, "the drain's deadline is kept without a thread of its own");
                }
            }
            Err(error) => event!(WARN, %error, "the drain's deadline is kept without a thread of its own"),
        }
    }

    async fn keep(self) -> io::Result<()> {
        let mut signals = Signals::install(self.signals, false)?;
        let mut phase = self.shared.phase.subscribe();
        self.wait_for_drain(&mut phase, &mut signals).await;
        self.wait_for_deadline(&mut phase, &mut signals).await;
        // Aborted connections go by themselves, unless their threads are blocked.
        self.wait_for_end(GONE).await;
        self.shared.abandon();
        let Some(code) = self.exit else { return Ok(()) };
        if !self.wait_for_end(GONE).await {
            let connections = self.shared.counts().active();
            aside!(ERROR, connections, code, "the drain's deadline is over and handlers block: exiting");
            exit(code);
        }
        Ok(())
    }

    async fn wait_for_drain(&self, phase: &mut watch::Receiver<Phase>, signals: &mut Signals) {
        tokio::select! {
            // In this order: the signal that began the drain comes before it, and is not to be taken for a second one.
            biased;
            () = signals.end() => {}
            _ = phase.wait_for(|phase| *phase != Phase::Running) => return,
        }
        // The server hears the same signal and begins to drain, if it is not blocked.
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
                () = sleep_until(deadline) => return self.shared.stop(),
                () = signals.end() => {
                    if signals.told_again() {
                        return self.shared.stop();
                    }
                    self.shared.hasten_drain(self.drain);
                }
            }
        }
    }

    /// Whether the server is over, or at least its connections are, within this time.
    async fn wait_for_end(&self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        loop {
            if *self.shared.phase.borrow() == Phase::Ended && self.shared.counts().active() == 0 {
                return true;
            }
            if Instant::now() >= deadline {
                return self.shared.counts().active() == 0;
            }
            sleep(LOOK).await;
        }
    }
}

/// Ends the process, whatever blocks. Exiting runs what libraries have left to be run, and flushes standard output, which
/// may block like any other log: then the process is killed.
fn exit(code: i32) -> ! {
    let killed = || {
        thread::sleep(GONE);
        kill_process(getpid(), Signal::KILL)
    };
    // Without the thread, exiting alone has to do.
    drop(thread::Builder::new().spawn(killed));
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
    use crate::server::reload::Reloads;
    use crate::server::shared::{Phase, Shared};

    /// The server hears it as well, and may have begun to drain before this thread looks.
    #[tokio::test]
    async fn the_signal_that_began_a_drain_is_not_taken_for_a_second_one() {
        let mut heard = signal(SignalKind::terminate()).unwrap();
        // Which of two that are ready is taken first may be left to chance.
        for _ in 0..20 {
            let shared = Shared::new(1, None, usize::MAX, false, Reloads::default());
            let drain = Duration::from_secs(60);
            let keeper = Keeper { shared: Arc::clone(&shared), signals: true, drain, exit: None };
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
