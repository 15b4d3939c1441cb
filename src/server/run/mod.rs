//! A server from its first accept to its last connection.

pub(super) mod command;
mod control;
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

use self::command::{Change, Command, New};
use self::lifecycle::Lifecycles;
use self::notify::Notify;
use self::options::Options;
use self::serve::{OnListening, Over};
use self::signals::{Hangup, Signals, Told};
use super::accept::all::Services;
use super::accept::front::{Front, Sockets};
use super::books::shared::{Phase, Shared};
use super::books::table::EndpointState;
use super::budget;
use super::drain::deadline;
use super::drain::{end, finish};
use super::restart::{Attempt, Place, RestartError, Step, Succession, start as start_successor};
use crate::endpoint::Endpoint;
use crate::wire::after;

/// A server whose endpoints are bound.
pub(super) struct Bound {
    pub(super) sockets: Sockets,
    /// First those that the program names, then those that the process before this one has added.
    pub(super) endpoints: Vec<Endpoint>,
    /// The number of the former.
    pub(super) named: usize,
    pub(super) services: Services,
    pub(super) succession: Option<Succession>,
    pub(super) signals: Signals,
    hangup: Hangup,
    pub(super) lifecycles: Lifecycles,
    pub(super) options: Options,
    pub(super) on_listening: Option<OnListening>,
    pub(super) shared: Arc<Shared>,
}

impl Bound {
    pub(super) async fn run(self) -> Result {
        let Self {
            sockets,
            endpoints,
            named,
            services,
            succession,
            mut signals,
            hangup,
            mut lifecycles,
            ..
        } = self;
        let (options, on_listening, shared) = (self.options, self.on_listening, self.shared);
        let over = Over(Arc::clone(&shared));
        let mut front = Front::new(sockets, &endpoints, services, &shared).await?;
        // Before anything is accepted.
        shared
            .endpoints
            .paused()
            .into_iter()
            .for_each(|number| drop(front.change(number, Change::Pause)));
        start(&mut lifecycles, &mut signals).await?;
        if let Some(succession) = succession {
            if let Err(error) = take_over(succession, &mut signals).await {
                drop(stop(&mut lifecycles, &mut signals).await);
                return Err(error);
            }
            // From here on the paths are this process's to remove.
            front.give_up(&[]);
        }
        // Run once only.
        drop(shared.runtime.set(Handle::current()));
        announce(&shared, &endpoints, &options, on_listening);
        deadline::keep(&shared, &options);
        #[cfg(feature = "systemd")]
        let _feeding = options.notify.feed_watchdog();
        let _keeping = budget::keep(&shared);
        let places = endpoints
            .iter()
            .enumerate()
            .map(|(number, endpoint)| control::place(&shared, number, endpoint))
            .collect();
        let commands = shared.control.open(options.workers);
        let mut running = Running { front, places, named, options, commands, shared: &shared };
        let result = running.accept_until_told(&mut signals, hangup).await;
        shared.control.close();
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
        () = signals.end() => Error::other("told to end by a signal before the lifecycles had started"),
    };
    drop(stop(lifecycles, signals).await);
    Err(told)
}

/// Stops the lifecycles that were started, unless a signal says that it takes too long.
async fn stop(lifecycles: &mut Lifecycles, signals: &mut Signals) -> Result {
    tokio::select! {
        biased;
        result = lifecycles.stop() => result,
        () = signals.end() => Err(Error::other("told to end by a signal before the lifecycles had stopped")),
    }
}

/// Takes over from the process that started this one, unless a signal comes first.
async fn take_over(succession: Succession, signals: &mut Signals) -> Result {
    tokio::select! {
        biased;
        result = succession.take_over() => result,
        () = signals.end() => Err(Error::other("told to end by a signal before the old process had made way")),
    }
}

/// Says what is in force, to the service manager, to the hook and in the log.
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
        let (max_connections, max_preambles) = (shared.max(), shared.preambles.max());
        let memory_budget = shared.memory.in_use().budget();
        aside!(INFO, %address, max_connections, max_preambles, memory_budget, drain_seconds, "listening");
    }
}

/// Reads the certificates again at each SIGHUP. With `signals` it listens to that one as soon as
/// there is anything to read.
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
                    Err(error) => aside!(ERROR, %error, "SIGHUP can't be listened to"),
                }
                continue;
            }
        }
        notify.reloading();
        // What is wrong is said in the log as well; then the old ones stay.
        notify.reloaded(shared.reloads.reload().await.err().as_ref());
    }
}

/// A server that accepts.
struct Running<'a> {
    front: Front,
    /// The endpoints, for a new process.
    places: Vec<Place>,
    /// How many of them the program names; the others were added.
    named: usize,
    options: Options,
    commands: mpsc::Receiver<Command>,
    shared: &'a Shared,
}

/// What a server that accepts hears of.
enum Event {
    Signal(Told),
    /// Told to drain or to stop by a handle.
    Told,
    /// The service can't be readied any more, or a worker can't go on.
    Failed(Error),
    RestartWanted,
    /// Told by a handle to change the endpoints.
    Command(Command),
    /// The new process has come a step further, or to nothing.
    Restarted(Result<Step, RestartError>),
}

impl Running<'_> {
    /// Accepts until told to stop. An error is that of a service that can't be readied any more, or
    /// of a worker; what is open goes on.
    async fn accept_until_told(&mut self, signals: &mut Signals, hangup: Hangup) -> Result {
        let (shared, notify) = (self.shared, self.options.notify.clone());
        // Kept from one event to the next: a reload that has begun comes to its end.
        let mut reloading = pin!(reload_when_told(shared, &notify, hangup, self.options.signals));
        let mut attempt = None;
        loop {
            match self.next(signals, reloading.as_mut(), &mut attempt).await {
                Event::Signal(Told::End) => {
                    shared.begin_drain(self.options.drain);
                    aside!(INFO, "told to end by a signal: draining; a second one stops now");
                    return Ok(());
                }
                Event::Told => return Ok(()),
                Event::Failed(error) => {
                    shared.begin_drain(self.options.drain);
                    let text = error.to_string();
                    aside!(ERROR, error = %text, "the service can't be readied, or a worker can't go on: draining");
                    return Err(error);
                }
                Event::Command(command) => self.obey(command),
                Event::Signal(Told::Restart) => drop(self.shared.ask_restart()),
                Event::RestartWanted => match self.begin_restart() {
                    Ok(begun) => attempt = Some(begun),
                    Err(error) => self.restart_failed(error),
                },
                Event::Restarted(Ok(Step::Ready(successor))) => {
                    // First, for from its first moment on the new process may end and take the
                    // paths with it.
                    self.front.give_up(successor.taken());
                    attempt = Some(successor.begin());
                }
                Event::Restarted(Ok(Step::Begun(pid))) => {
                    self.succeeded_by(pid);
                    return Ok(());
                }
                Event::Restarted(Err(error)) => {
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
    ) -> Event {
        let (mut phase, mut restarts) =
            (self.shared.phase.subscribe(), self.shared.restarts.subscribe());
        let (front, commands) = (&mut self.front, &mut self.commands);
        let idle = attempt.is_none();
        let attempted = async {
            match attempt {
                Some(attempt) => attempt.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            told = signals.next() => Event::Signal(told),
            _ = phase.wait_for(|phase| *phase != Phase::Running) => Event::Told,
            outcome = attempted => Event::Restarted(outcome),
            _ = restarts.wait_for(|restarts| restarts.is_wanted()), if idle => Event::RestartWanted,
            never = reloading => match never {},
            // Not while a new process takes over the endpoints.
            Some(command) = commands.recv(), if idle => Event::Command(command),
            error = poll_fn(|cx| front.poll(cx)) => Event::Failed(error),
        }
    }

    /// Changes the endpoints.
    fn obey(&mut self, command: Command) {
        match command {
            Command::Add(new, answer) => {
                let New { service, endpoint, address, sockets, preambles } = *new;
                let number = self.shared.endpoints.add(service, address, preambles);
                self.places.push(control::place(self.shared, number, &endpoint));
                if endpoint.has_preamble() {
                    self.shared.leave_room_for_preambles();
                }
                self.shared.reloads.add_endpoint(number, &endpoint);
                self.front.add(number, service, &endpoint, sockets);
                control::log(self.shared, number, None);
                drop(answer.send(Ok(number)));
            }
            Command::Change(number, change, answer) => {
                let changed = match self.shared.endpoints.state(number) {
                    None | Some(EndpointState::Removed) => Err(Error::other(format!(
                        "the server has no endpoint with the number {number}"
                    ))),
                    Some(_) => {
                        self.shared.endpoints.set_state(number, change.state());
                        if change == Change::Remove {
                            self.shared.reloads.remove_endpoint(number);
                        }
                        control::log(self.shared, number, Some(change));
                        Ok(self.front.change(number, change))
                    }
                };
                drop(answer.send(changed));
            }
        }
    }

    fn begin_restart(&self) -> Result<Attempt, RestartError> {
        let restart = self.options.restart.as_ref().ok_or(RestartError::NotEnabled)?;
        let state = |number| self.shared.endpoints.state(number);
        let now = |(number, place): (usize, &Place)| Place {
            added: place.added.clone().filter(|_| number >= self.named),
            paused: state(number) == Some(EndpointState::Paused),
            removed: state(number) == Some(EndpointState::Removed),
            ..place.clone()
        };
        let places: Vec<_> = self.places.iter().enumerate().map(now).collect();
        let sockets = self.front.hand_over(&places)?;
        // An added one that is gone again is not in the new process anyway.
        let removed = places.into_iter().take(self.named).filter(|place| place.removed).collect();
        let attempt = start_successor(restart, sockets, removed);
        self.options.notify.reloading();
        aside!(INFO, "told to restart: a new process is started");
        Ok(attempt)
    }

    fn succeeded_by(&self, pid: u32) {
        self.options.notify.succeeded_by(pid);
        self.shared.succeed();
        self.shared.restarted(Ok(pid));
        self.shared.begin_drain(self.options.drain);
        aside!(INFO, pid, "a new process has taken over: draining");
    }

    fn restart_failed(&mut self, error: RestartError) {
        // All is this process's again.
        self.front.give_up(&[]);
        self.options.notify.restart_failed(&error);
        self.shared.restarted(Err(error.clone()));
        aside!(ERROR, %error, "the restart failed, and this process goes on");
    }

    /// Goes on as before for a while: not everybody has heard yet that it is not to be sent to any
    /// more.
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
                    aside!(ERROR, %error, "the service can't be readied any more, or a worker can't go on");
                    return;
                }
            }
        }
    }

    /// Accepts what had connected, and closes the listeners: what a successor has taken is its own
    /// by now. Returns what is still to come of them: connections that were taken and go through
    /// their preambles, or wait for a slot.
    async fn close(mut self, last_call: bool, signals: &mut Signals) -> (Front, Options) {
        if *self.shared.phase.borrow() == Phase::Running {
            self.shared.begin_drain(self.options.drain);
        }
        if !self.shared.has_successor() {
            self.options.notify.stopping();
            if last_call && !self.options.grace.is_zero() {
                self.grace(signals).await;
            }
        }
        if !self.shared.has_successor() {
            // A restart that is broken off here may have given them up.
            self.front.give_up(&[]);
        }
        let Self { mut front, options, shared, .. } = self;
        let stopping = *shared.phase.borrow() == Phase::Stopping;
        if last_call && !stopping {
            // What had connected when the drain began is taken. Without tokio's budget for one
            // turn, which would leave all but the first 128 to be reset.
            tokio::task::unconstrained(poll_fn(|cx| front.poll_backlog(cx))).await;
        } else {
            // A service that can't be readied takes nothing more.
            front.close();
        }
        (front, options)
    }
}
