//! A server from its first accept to its last connection.

mod beside;
pub(super) mod command;
mod control;
mod hand_over;
pub(super) mod lifecycle;
pub(super) mod notify;
pub(super) mod options;
pub(super) mod reload;
pub(super) mod serve;
pub(super) mod signals;

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;

use ropewalk_middleware::event::aside;
use ropewalk_middleware::{Addr, Error, Result};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use self::command::{Change, Command};
use self::lifecycle::Lifecycles;
use self::notify::Notify;
use self::options::Options;
use self::serve::{EndOnDrop, OnListening};
use self::signals::{Hangup, Signalled, Signals};
use super::accept::all::Services;
use super::accept::front::{Front, Sockets};
use super::books::shared::{Phase, Shared};
use super::budget;
use super::drain::deadline;
use super::drain::{end, finish};
use super::restart::{Attempt, ListedEndpoint, Registered, RestartError, RestartStep, Takeover};
use crate::endpoint::Endpoint;
use crate::wire::after;

/// A server whose endpoints are bound.
pub(super) struct Bound {
    pub(super) sockets: Sockets,
    /// First those that the program names, then those that a handle had added in the old process.
    pub(super) endpoints: Vec<Endpoint>,
    /// How many of them the program names.
    pub(super) named: usize,
    pub(super) services: Services,
    pub(super) signals: Signals,
    hangup: Hangup,
    pub(super) lifecycles: Lifecycles,
    pub(super) options: Options,
    pub(super) on_listening: Option<OnListening>,
    pub(super) shared: Arc<Shared>,
}

impl Bound {
    pub(super) async fn run(self) -> Result {
        let Self { sockets, endpoints, services, mut signals, hangup, mut lifecycles, .. } = self;
        let named = self.named;
        let options = self.options;
        let on_listening = self.on_listening;
        let shared = self.shared;
        let over = EndOnDrop(Arc::clone(&shared));
        let mut front = Front::new(sockets, &endpoints, services, &shared).await?;
        // Before anything is accepted.
        for number in shared.endpoints.paused() {
            drop(front.change(number, Change::Pause));
        }
        let beside = beside::begin(&shared, &options, &endpoints, &mut front).await;
        start(&mut lifecycles, &mut signals).await?;
        if let Some(succession) = shared.beside.succession() {
            if let Err(error) = take_over(succession, &mut signals).await {
                drop(stop(&mut lifecycles, &mut signals).await);
                return Err(error);
            }
            // From here on the paths are this process's to remove.
            front.give_up(&[]);
        }
        shared.beside.settle();
        // Run once only.
        drop(shared.runtime.set(Handle::current()));
        announce(&shared, &endpoints, &options, on_listening);
        deadline::keep(&shared, &options);
        #[cfg(feature = "systemd")]
        let _feeding = options.notify.feed_watchdog();
        let _keeping = budget::keep(&shared);
        let place = |(number, endpoint)| control::place(&shared, number, endpoint);
        let mut running = Running {
            front,
            places: endpoints.iter().enumerate().map(place).collect(),
            named,
            own_sockets: 0,
            beside,
            commands: shared.control.open(options.workers),
            options,
            shared: &shared,
        };
        let result = running.accept_until_told(&mut signals, hangup).await;
        shared.control.close();
        drop(running.beside.take());
        let (front, options) = running.close(result.is_ok(), &mut signals).await;
        shared.drain_all();
        finish(&shared, front, &mut signals, options.drain).await;
        shared.outcome.end(&shared.counts());
        let stopped = stop(&mut lifecycles, &mut signals).await;
        shared.end(false);
        drop(over);
        result.and(stopped)
    }
}

/// Starts the lifecycles, unless a signal comes first.
async fn start(lifecycles: &mut Lifecycles, signals: &mut Signals) -> Result {
    let told = tokio::select! {
        biased;
        result = lifecycles.start() => return result,
        () = signals.end() => Error::other("received SIGTERM or SIGINT before the lifecycles had started"),
    };
    drop(stop(lifecycles, signals).await);
    Err(told)
}

/// Stops the lifecycles that were started, unless a signal says that it takes too long.
async fn stop(lifecycles: &mut Lifecycles, signals: &mut Signals) -> Result {
    tokio::select! {
        biased;
        result = lifecycles.stop() => result,
        () = signals.end() => Err(Error::other("received SIGTERM or SIGINT before the lifecycles had stopped")),
    }
}

/// Takes over from the process that started this one, unless a signal comes first.
async fn take_over(takeover: Takeover, signals: &mut Signals) -> Result {
    tokio::select! {
        biased;
        result = takeover.take_over() => result,
        () = signals.end() => Err(Error::other("received SIGTERM or SIGINT before the old process had handed over")),
    }
}

/// Announces that the server accepts, to the service manager, the hook and the log, with its
/// addresses and limits.
fn announce(shared: &Shared, endpoints: &[Endpoint], options: &Options, hook: Option<OnListening>) {
    let bound = |(number, endpoint): (usize, &Endpoint)| {
        let address = shared.endpoints.bound(number)?;
        Some((endpoint.bound_to(&address), address))
    };
    let (texts, addresses): (Vec<String>, Vec<Addr>) =
        endpoints.iter().enumerate().filter_map(bound).unzip();
    options.notify.ready();
    if let Some(hook) = hook {
        hook(&texts, &addresses);
    }
    for address in texts {
        let drain_seconds = options.drain.as_secs();
        let max_connections = shared.max();
        let max_preambles = shared.preambles.max();
        let memory_budget = shared.memory.in_use().budget();
        aside!(INFO, %address, max_connections, max_preambles, memory_budget, drain_seconds, "listening");
    }
}

/// Reloads certificates and other resources at each SIGHUP. With `signals`, the handler is
/// installed as soon as there is something to reload.
async fn reload_when_told(
    shared: &Shared,
    notify: &Notify,
    mut hangup: Hangup,
    signals: bool,
) -> Infallible {
    loop {
        tokio::select! {
            biased;
            () = hangup.next() => {}
            () = shared.reloads.added(), if signals && !hangup.is_installed() => {
                match Hangup::install(!shared.reloads.is_empty()) {
                    Ok(installed) => hangup = installed,
                    Err(error) => aside!(ERROR, %error, "the handler for SIGHUP can't be installed"),
                }
                continue;
            }
        }
        notify.reloading();
        // An error is logged by `reload` as well; the old state stays then.
        notify.reloaded(shared.reloads.reload(&Handle::current()).await.err().as_ref());
    }
}

/// A server that accepts.
struct Running<'a> {
    front: Front,
    /// The endpoints, for a new process.
    places: Vec<ListedEndpoint>,
    /// How many of them the program names; the others were added.
    named: usize,
    /// How many sockets of this server were handed over last; those of the servers beside it
    /// follow.
    own_sockets: usize,
    options: Options,
    commands: mpsc::Receiver<Command>,
    /// The duplicates of its sockets, if the server is beside another one.
    beside: Option<Registered>,
    shared: &'a Shared,
}

/// An event that the accepting server handles.
enum RunEvent {
    Signal(Signalled),
    /// A handle or the deadline's thread has begun a drain or a stop.
    Draining,
    /// The service can't be made ready any more, or a worker can't go on.
    Failed(Error),
    RestartWanted,
    /// A handle changes the endpoints.
    Command(Command),
    /// The restart has reached its next step, or failed.
    Restarted(Result<RestartStep, RestartError>),
}

impl Running<'_> {
    /// Accepts until the server is told to end. Fails with the error of a service that can't be
    /// made ready any more, or of a worker; open connections go on.
    async fn accept_until_told(&mut self, signals: &mut Signals, hangup: Hangup) -> Result {
        let shared = self.shared;
        let notify = self.options.notify.clone();
        // Kept across events, so that a reload that has begun is completed.
        let mut reloading = pin!(reload_when_told(shared, &notify, hangup, self.options.signals));
        let mut attempt = None;
        loop {
            match self.next(signals, reloading.as_mut(), &mut attempt).await {
                RunEvent::Signal(Signalled::End) => {
                    shared.begin_drain(self.options.drain);
                    aside!(
                        INFO,
                        "received SIGTERM or SIGINT: draining; send it again to abort now"
                    );
                    return Ok(());
                }
                RunEvent::Draining => return Ok(()),
                RunEvent::Failed(error) => {
                    shared.begin_drain(self.options.drain);
                    let text = error.to_string();
                    aside!(ERROR, error = %text, "the service can't be made ready any more, or a worker can't go on: draining");
                    return Err(error);
                }
                RunEvent::Command(command) => self.obey(command),
                RunEvent::Signal(Signalled::Restart) => drop(self.shared.ask_restart()),
                RunEvent::RestartWanted => match self.begin_restart() {
                    Ok(begun) => attempt = Some(begun),
                    Err(error) => self.restart_failed(error),
                },
                RunEvent::Restarted(Ok(RestartStep::Ready(successor))) => {
                    attempt = Some(self.hand_over(successor));
                }
                RunEvent::Restarted(Ok(RestartStep::Begun(pid))) => {
                    self.succeeded_by(pid);
                    return Ok(());
                }
                RunEvent::Restarted(Err(error)) => {
                    attempt = None;
                    self.restart_failed(error);
                }
            }
        }
    }

    async fn next(
        &mut self,
        signals: &mut Signals,
        reloading: Pin<&mut impl Future<Output = Infallible>>,
        attempt: &mut Option<Attempt>,
    ) -> RunEvent {
        let mut phase = self.shared.phase.subscribe();
        let mut restarts = self.shared.restarts.subscribe();
        let front = &mut self.front;
        let commands = &mut self.commands;
        let idle = attempt.is_none();
        let attempted = async {
            match attempt {
                Some(attempt) => attempt.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            told = signals.next() => RunEvent::Signal(told),
            _ = phase.wait_for(|phase| *phase != Phase::Running) => RunEvent::Draining,
            outcome = attempted => RunEvent::Restarted(outcome),
            _ = restarts.wait_for(|restarts| restarts.is_wanted()), if idle => RunEvent::RestartWanted,
            never = reloading => match never {},
            // Endpoints don't change while a new process takes them over.
            Some(command) = commands.recv(), if idle => RunEvent::Command(command),
            error = poll_fn(|cx| front.poll(cx)) => RunEvent::Failed(error),
        }
    }

    /// Goes on accepting during the readiness grace, because load balancers may not have noticed
    /// the drain yet.
    async fn grace(&mut self, signals: &mut Signals) {
        let until = after(Instant::now(), self.options.grace);
        let mut phase = self.shared.phase.subscribe();
        loop {
            let Phase::Draining(deadline) = *phase.borrow_and_update() else { return };
            tokio::select! {
                biased;
                () = signals.end() => end(self.shared, signals, self.options.drain),
                _ = phase.changed() => {}
                () = sleep_until(until.min(deadline)) => return,
                error = poll_fn(|cx| self.front.poll(cx)) => {
                    let error = error.to_string();
                    aside!(ERROR, %error, "the service can't be made ready any more, or a worker can't go on");
                    return;
                }
            }
        }
    }

    /// Closes the listeners. Connections in the backlogs are accepted first, except those of
    /// sockets that a new process has taken. Returns the front, which still has connections that
    /// are in their preambles or wait for a slot.
    async fn close(mut self, last_call: bool, signals: &mut Signals) -> (Front, Options) {
        if *self.shared.phase.borrow() == Phase::Running {
            self.shared.begin_drain(self.options.drain);
        }
        // Their callers need not wait for the end of the grace, nor do the sockets that they have
        // bound.
        self.commands.close();
        while self.commands.try_recv().is_ok() {}
        if !self.shared.has_successor() {
            self.options.notify.stopping();
            if last_call && !self.options.grace.is_zero() {
                self.grace(signals).await;
            }
        }
        if !self.shared.has_successor() {
            // A restart that is interrupted by the drain may have given some of them up.
            self.front.give_up(&[]);
        } else if let Some(taken) = self.shared.given_up.get() {
            self.front.give_up_numbers(taken);
        }
        let Self { mut front, options, shared, .. } = self;
        let stopping = *shared.phase.borrow() == Phase::Stopping;
        if last_call && !stopping {
            // Accepts all connections in the backlogs. Unconstrained, because tokio's budget for
            // one turn would end after the first 128, and the others would be reset.
            tokio::task::unconstrained(poll_fn(|cx| front.poll_backlog(cx))).await;
        } else {
            // A stop aborts the connections that are not served yet, and a service that can't be
            // made ready serves no more.
            front.close();
        }
        (front, options)
    }
}
