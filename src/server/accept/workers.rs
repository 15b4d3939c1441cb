//! Accept loops on threads of their own, each with a runtime of its own; connections stay where
//! they were accepted.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::thread;

use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::unconstrained;

use super::Listening;
use super::all::{All, Services, by_number};
use crate::endpoint::Endpoint;
use crate::listener::opened::Opened;
use crate::server::books::shared::{Phase, Shared};
use crate::server::restart::{Passed, Place, RestartError};
use crate::server::run::command::Change;
use ropewalk_middleware::event::aside;
use ropewalk_middleware::{Error, Result};

/// What the workers are told. Each word is said after those above it, and stands for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    Wait,
    Accept,
    /// Take what has connected, then close the sockets; close at once those that are another
    /// process's.
    LastCall,
    /// Close all that is not a connection yet.
    Close,
}

/// An endpoint that comes, or is changed, on one worker.
enum WorkerChange {
    /// With the number of its service.
    Add(Box<(usize, Endpoint, Share)>),
    Change(usize, Change, mpsc::Sender<Infallible>),
}

/// What they know of.
struct Told {
    order: Order,
    /// The sockets another process has taken. It counts from the last call on.
    taken: Vec<bool>,
}

/// The workers of a server. Dropped, they take nothing more; their threads end with the server.
pub(in crate::server) struct Workers {
    /// By endpoint; the workers have descriptors of their own. These are for a new process to take
    /// over, and have the paths.
    sockets: Vec<Vec<Opened>>,
    /// The numbers of these sockets.
    numbers: Vec<Vec<usize>>,
    /// The number of the next one.
    next: usize,
    told: watch::Sender<Told>,
    /// To each worker: the endpoints that come and go while it accepts. Without a bound: they come
    /// from the program, and a worker that missed one would listen where it must not.
    changes: Vec<mpsc::UnboundedSender<WorkerChange>>,
    /// Tells why a worker can't go on. It ends when nothing more is to come from any of them.
    failures: mpsc::Receiver<Error>,
}

impl Workers {
    /// Starts the threads, and waits until each is ready to accept.
    pub(super) async fn start(
        workers: usize,
        sockets: Vec<Vec<Opened>>,
        endpoints: &[Endpoint],
        services: &Services,
        shared: &Arc<Shared>,
    ) -> Result<Self> {
        let told = watch::Sender::new(Told { order: Order::Wait, taken: Vec::new() });
        // Each fails once.
        let (failed, failures) = mpsc::channel(workers);
        let (mut starting, mut changes) =
            (Vec::with_capacity(workers), Vec::with_capacity(workers));
        for (number, sockets) in deal(&sockets, workers)?.into_iter().enumerate() {
            let (endpoints, services, shared) =
                (endpoints.to_vec(), services.clone(), Arc::clone(shared));
            let (told, failed) = (told.subscribe(), Failed(failed.clone()));
            let (change, changed) = mpsc::unbounded_channel();
            changes.push(change);
            let worker = Worker {
                number,
                sockets,
                endpoints,
                services,
                shared,
                told,
                changes: changed,
                failed,
            };
            let (started, is_started) = oneshot::channel();
            thread::Builder::new().name(format!("ropewalk-{number}")).spawn(move || worker.run(started)).map_err(
                |error| {
                    let advice = "start fewer, or raise the limit of threads (`ulimit -u`, or the pids of the cgroup)";
                    io::Error::new(
                        error.kind(),
                        format!("worker {number} of {workers} can't be started: {error}; {advice}"),
                    )
                },
            )?;
            starting.push(is_started);
        }
        for started in starting {
            started.await??;
        }
        let mut next = 0;
        let mut count = |sockets: &Vec<Opened>| {
            next += sockets.len();
            (next - sockets.len()..next).collect()
        };
        let numbers = sockets.iter().map(&mut count).collect();
        Ok(Self { sockets, numbers, next, told, changes, failures })
    }

    /// Has the workers accept. Ready with the first error of one of them.
    pub(in crate::server) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        self.tell(Order::Accept);
        // Each says why before it ends.
        self.failures
            .poll_recv(cx)
            .map(|failure| failure.unwrap_or_else(|| Error::other("no worker is left")))
    }

    pub(in crate::server) fn hand_over(
        &self,
        places: &[Place],
    ) -> Result<Vec<Passed>, RestartError> {
        let of_all = self.sockets.iter().zip(places);
        let each =
            of_all.flat_map(|(sockets, place)| sockets.iter().map(move |opened| (opened, place)));
        each.map(|(opened, place)| {
            let path = opened.path.as_ref().map(|path| (path.absolute().to_owned(), path.id()));
            Ok(Passed { place: place.clone(), socket: opened.socket.try_clone()?, path })
        })
        .collect()
    }

    pub(in crate::server) fn give_up(&mut self, taken: &[bool]) {
        for (number, opened) in self.sockets.iter_mut().flatten().enumerate() {
            if let Some(path) = &mut opened.path {
                path.set_owned(!taken.get(number).is_some_and(|taken| *taken));
            }
        }
        let numbers: Vec<usize> = self.numbers.iter().flatten().copied().collect();
        let taken = by_number(&numbers, taken);
        self.told.send_modify(|told| told.taken = taken);
    }

    /// Has the workers accept on a new endpoint with this number.
    pub(super) fn add(
        &mut self,
        number: usize,
        service: usize,
        endpoint: &Endpoint,
        opened: Vec<Opened>,
    ) {
        let first = self.next;
        self.next += opened.len();
        for turn in 0..self.changes.len().max(opened.len()) {
            let n = turn % opened.len();
            match opened[n].share() {
                Ok(share) => {
                    let share = Share { endpoint: number, socket: first + n, opened: share };
                    self.tell_worker(
                        turn,
                        WorkerChange::Add(Box::new((service, endpoint.clone(), share))),
                    );
                }
                Err(error) => {
                    let error = error.to_string();
                    aside!(ERROR, number, %error, "a worker has no socket of the new endpoint");
                }
            }
        }
        self.numbers.push((first..self.next).collect());
        self.sockets.push(opened);
    }

    /// Has the workers change an endpoint. Each drops its `done` when it has.
    pub(super) fn change(
        &mut self,
        number: usize,
        change: Change,
        done: &mpsc::Sender<Infallible>,
    ) {
        if change == Change::Remove {
            // A socket listens as long as any process or thread has it.
            self.sockets[number].clear();
            self.numbers[number].clear();
        }
        for worker in 0..self.changes.len() {
            self.tell_worker(worker, WorkerChange::Change(number, change, done.clone()));
        }
    }

    fn tell_worker(&self, worker: usize, change: WorkerChange) {
        let worker = worker % self.changes.len();
        if self.changes[worker].send(change).is_err() {
            aside!(ERROR, worker, "a worker is gone, and does not hear of a changed endpoint");
        }
    }

    pub(in crate::server) fn last_call(&mut self) {
        // First: a socket listens as long as anybody has it, and none of us accepts on these.
        self.sockets.clear();
        self.tell(Order::LastCall);
    }

    /// Ready when each worker has taken what it was to take. One whose thread is blocked may keep
    /// us waiting.
    pub(in crate::server) fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while ready!(self.failures.poll_recv(cx)).is_some() {}
        Poll::Ready(())
    }

    /// Has the workers give up what they have not served.
    pub(in crate::server) fn close(&self) {
        self.tell(Order::Close);
    }

    fn tell(&self, order: Order) {
        self.told.send_if_modified(|told| {
            let new = order > told.order;
            told.order = order.max(told.order);
            new
        });
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.tell(Order::Close);
    }
}

/// A socket for a worker to accept on, by the numbers that [`Listening`] has.
struct Share {
    endpoint: usize,
    socket: usize,
    opened: Opened,
}

/// What each worker is to accept on. Every worker has a socket of each endpoint, and every
/// socket a worker: where there are fewer of the ones than of the others, they are shared.
fn deal(sockets: &[Vec<Opened>], workers: usize) -> io::Result<Vec<Vec<Share>>> {
    let mut shares: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
    let mut first = 0;
    for (endpoint, sockets) in sockets.iter().enumerate() {
        // One that was removed in the process before this one has no sockets.
        let turns = if sockets.is_empty() { 0 } else { workers.max(sockets.len()) };
        for turn in 0..turns {
            let n = turn % sockets.len();
            shares[turn % workers].push(Share {
                endpoint,
                socket: first + n,
                opened: sockets[n].share()?,
            });
        }
        first += sockets.len();
    }
    Ok(shares)
}

/// One worker, before it has a thread.
struct Worker {
    number: usize,
    sockets: Vec<Share>,
    endpoints: Vec<Endpoint>,
    services: Services,
    shared: Arc<Shared>,
    told: watch::Receiver<Told>,
    changes: mpsc::UnboundedReceiver<WorkerChange>,
    failed: Failed,
}

impl Worker {
    /// The thread. What fails before it is ready to accept is told to who has started it.
    fn run(self, started: oneshot::Sender<Result>) {
        let runtime = match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(started.send(Err(error.into()))),
        };
        self.shared.incidents.watch(runtime.metrics());
        let (mut phase, shared) = (self.shared.phase.subscribe(), Arc::clone(&self.shared));
        runtime.block_on(async {
            match self.accept() {
                Ok((accept, told, changes, failed)) => {
                    drop(started.send(Ok(())));
                    take(accept, told, changes, &shared, failed).await;
                }
                Err(error) => return drop(started.send(Err(error))),
            }
            // Meanwhile the connections are served here. The sender lives in what the gate shares
            // with us.
            drop(phase.wait_for(|phase| *phase == Phase::Ended).await);
        });
    }

    fn accept(
        self,
    ) -> Result<(All, watch::Receiver<Told>, mpsc::UnboundedReceiver<WorkerChange>, Failed)> {
        let listening = |Share { endpoint, socket, opened }| {
            let preambles = self
                .shared
                .endpoints
                .preambles(endpoint)
                .unwrap_or_else(|| self.shared.preambles.clone());
            let listener = self.endpoints[endpoint].listener(opened, &preambles)?;
            Ok(Listening::new(endpoint, socket, listener))
        };
        let listeners = self.sockets.into_iter().map(listening).collect::<Result<_>>()?;
        let all = All::new(listeners, &self.services, self.number, &self.shared);
        Ok((all, self.told, self.changes, self.failed))
    }
}

/// Takes connections as it is told, to the last one. Whether that is over is told by dropping
/// `failed`.
async fn take(
    mut accept: All,
    mut told: watch::Receiver<Told>,
    mut changes: mpsc::UnboundedReceiver<WorkerChange>,
    shared: &Shared,
    failed: Failed,
) {
    ordered(&mut told, Order::Accept).await;
    let order = loop {
        tokio::select! {
            biased;
            order = ordered(&mut told, Order::LastCall) => break order,
            Some(change) = changes.recv() => obey(&mut accept, change, shared),
            error = poll_fn(|cx| accept.poll(cx)) => {
                accept.close();
                return failed.say(error);
            }
        }
    };
    // Peers may have connected to an endpoint that was just added. A change that comes later is not
    // made.
    while let Ok(change) = changes.try_recv() {
        obey(&mut accept, change, shared);
    }
    drop(changes);
    if order == Order::Close {
        // What it gives up is counted before `failed` goes.
        return accept.close();
    }
    accept.give_up_numbers(&told.borrow().taken);
    // All of it in one turn: see `Running::close`.
    unconstrained(poll_fn(|cx| accept.poll_backlog(cx))).await;
    tokio::select! {
        biased;
        _ = ordered(&mut told, Order::Close) => {}
        () = poll_fn(|cx| accept.poll_pending(cx)) => {}
    }
    // Before `failed` goes, by which it is told that nothing is to come any more.
    accept.close();
    drop(failed);
}

/// Makes a change of an endpoint on this worker.
fn obey(accept: &mut All, change: WorkerChange, shared: &Shared) {
    match change {
        WorkerChange::Add(new) => {
            let (service, endpoint, Share { endpoint: number, socket, opened }) = *new;
            let preambles =
                shared.endpoints.preambles(number).unwrap_or_else(|| shared.preambles.clone());
            match endpoint.listener(opened, &preambles) {
                Ok(listener) => accept.add(service, [Listening::new(number, socket, listener)]),
                Err(error) => {
                    let error = error.to_string();
                    aside!(ERROR, number, %error, "a worker can't accept on a new endpoint");
                }
            }
        }
        WorkerChange::Change(number, change, _done) => accept.change(number, change),
    }
}

/// Waits for this order, or a later one. Nobody left to give any is the last.
async fn ordered(told: &mut watch::Receiver<Told>, order: Order) -> Order {
    told.wait_for(|told| told.order >= order).await.map_or(Order::Close, |told| told.order)
}

/// Says why a worker can't go on.
struct Failed(mpsc::Sender<Error>);

impl Failed {
    fn say(&self, error: Error) {
        // There is room for one of each worker.
        drop(self.0.try_send(error));
    }
}

impl Drop for Failed {
    fn drop(&mut self) {
        if thread::panicking() {
            self.say(Error::other("a worker has panicked, and its connections are lost"));
        }
    }
}
