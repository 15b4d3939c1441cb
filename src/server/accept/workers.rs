//! Accept loops on threads of their own, each with its own runtime. A connection stays on the
//! thread that accepted it.

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
use super::shares::{Share, deal};
use crate::endpoint::Endpoint;
use crate::listener::opened::OpenSocket;
use crate::server::books::shared::{Phase, Shared};
use crate::server::restart::{ListedEndpoint, Passed, RestartError};
use crate::server::run::command::Change;
use ropewalk_middleware::event::aside;
use ropewalk_middleware::{Error, Result};

/// An order to all workers. Each includes the ones before it, and they are given in this sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum WorkerOrder {
    Wait,
    Accept,
    /// Accept the connections in the backlogs, then close the sockets; close those that another
    /// process has taken at once.
    LastCall,
    /// Abort the connections that are not served yet.
    Close,
}

/// An order to one worker: to add or change an endpoint.
enum WorkerChange {
    /// With the number of its service.
    Add(Box<(usize, Endpoint, Share)>),
    Change(usize, Change, mpsc::Sender<Infallible>),
}

/// The orders to all workers.
struct WorkerOrders {
    order: WorkerOrder,
    /// Whether another process has taken each socket, by number. It takes effect at the last call.
    taken: Vec<bool>,
}

/// The workers of a server. When this is dropped they accept no more connections; their threads end
/// with the server.
pub(in crate::server) struct Workers {
    /// The sockets of each endpoint, with their paths, for a hot restart. The workers have
    /// duplicates.
    sockets: Vec<Vec<OpenSocket>>,
    /// The numbers of these sockets.
    numbers: Vec<Vec<usize>>,
    /// The number of the next one.
    next: usize,
    told: watch::Sender<WorkerOrders>,
    /// A channel to each worker, for changes of endpoints while it accepts. It has no bound: the
    /// program makes these changes, and a worker that missed one would go on listening on a removed
    /// endpoint.
    changes: Vec<mpsc::UnboundedSender<WorkerChange>>,
    /// Receives the error of a worker that can't go on. It is closed when all workers are done with
    /// accepting.
    failures: mpsc::Receiver<Error>,
}

impl Workers {
    /// Starts the threads, and waits until each is ready to accept.
    pub(super) async fn start(
        workers: usize,
        sockets: Vec<Vec<OpenSocket>>,
        endpoints: &[Endpoint],
        services: &Services,
        shared: &Arc<Shared>,
    ) -> Result<Self> {
        let told = watch::Sender::new(WorkerOrders { order: WorkerOrder::Wait, taken: Vec::new() });
        // Each fails once.
        let (failed, failures) = mpsc::channel(workers);
        let mut starting = Vec::with_capacity(workers);
        let mut changes = Vec::with_capacity(workers);
        for (number, sockets) in deal(&sockets, workers)?.into_iter().enumerate() {
            let endpoints = endpoints.to_vec();
            let services = services.clone();
            let shared = Arc::clone(shared);
            let told = told.subscribe();
            let failed = FailureSender(failed.clone());
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
        let mut count = |sockets: &Vec<OpenSocket>| {
            next += sockets.len();
            (next - sockets.len()..next).collect()
        };
        let numbers = sockets.iter().map(&mut count).collect();
        Ok(Self { sockets, numbers, next, told, changes, failures })
    }

    /// Makes the workers accept. Ready with the first error of one of them.
    pub(in crate::server) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        self.tell(WorkerOrder::Accept);
        // Each sends its error before it ends.
        self.failures
            .poll_recv(cx)
            .map(|failure| failure.unwrap_or_else(|| Error::other("no worker is left")))
    }

    pub(in crate::server) fn hand_over(
        &self,
        places: &[ListedEndpoint],
    ) -> Result<Vec<Passed>, RestartError> {
        let of_all = self.sockets.iter().zip(places).enumerate();
        let each = of_all.flat_map(|(number, (sockets, place))| {
            sockets.iter().map(move |opened| (number, opened, place))
        });
        each.map(|(number, opened, place)| {
            let path = opened.path.as_ref().map(|path| (path.absolute().to_owned(), path.id()));
            Ok(Passed { number, place: place.clone(), socket: opened.socket.try_clone()?, path })
        })
        .collect()
    }

    pub(in crate::server) fn give_up(&mut self, taken: &[bool]) {
        let numbers: Vec<usize> = self.numbers.iter().flatten().copied().collect();
        self.give_up_numbers(by_number(&numbers, taken));
    }

    /// Does the same with `taken` indexed by the numbers of the sockets.
    pub(super) fn give_up_numbers(&mut self, taken: Vec<bool>) {
        let numbers = self.numbers.iter().flatten();
        for (opened, number) in self.sockets.iter_mut().flatten().zip(numbers) {
            if let Some(path) = &mut opened.path {
                path.set_owned(!taken.get(*number).is_some_and(|taken| *taken));
            }
        }
        self.told.send_modify(|told| told.taken = taken);
    }

    /// Makes the workers accept on a new endpoint with this number.
    pub(super) fn add(
        &mut self,
        number: usize,
        service: usize,
        endpoint: &Endpoint,
        opened: Vec<OpenSocket>,
        shares: Vec<OpenSocket>,
    ) {
        let first = self.next;
        self.next += opened.len();
        for (turn, share) in shares.into_iter().enumerate() {
            let socket = first + turn % opened.len().max(1);
            let share = Share { endpoint: number, socket, opened: share };
            self.tell_worker(turn, WorkerChange::Add(Box::new((service, endpoint.clone(), share))));
        }
        self.numbers.push((first..self.next).collect());
        self.sockets.push(opened);
    }

    /// Makes the workers change an endpoint. Each drops its `done` when it has done so.
    pub(super) fn change(
        &mut self,
        number: usize,
        change: Change,
        done: &mpsc::Sender<Infallible>,
    ) {
        if change == Change::Remove {
            // A socket goes on listening as long as a descriptor of it is open.
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
            aside!(ERROR, worker, "the endpoint can't be changed: a worker has ended, or drains");
        }
    }

    pub(in crate::server) fn last_call(&mut self) {
        // First: a socket goes on listening as long as a descriptor of it is open, and no worker
        // accepts on these.
        self.sockets.clear();
        self.tell(WorkerOrder::LastCall);
    }

    /// Ready when each worker is done with accepting. A worker whose thread is blocked may delay it
    /// without a bound.
    pub(in crate::server) fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while ready!(self.failures.poll_recv(cx)).is_some() {}
        Poll::Ready(())
    }

    /// Makes the workers abort the connections that they have not served.
    pub(in crate::server) fn close(&self) {
        self.tell(WorkerOrder::Close);
    }

    fn tell(&self, order: WorkerOrder) {
        self.told.send_if_modified(|told| {
            let new = order > told.order;
            told.order = order.max(told.order);
            new
        });
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.tell(WorkerOrder::Close);
    }
}

/// The data of one worker, moved to its thread.
struct Worker {
    number: usize,
    sockets: Vec<Share>,
    endpoints: Vec<Endpoint>,
    services: Services,
    shared: Arc<Shared>,
    told: watch::Receiver<WorkerOrders>,
    changes: mpsc::UnboundedReceiver<WorkerChange>,
    failed: FailureSender,
}

impl Worker {
    /// Runs the thread. An error before it is ready to accept is sent to `started`.
    fn run(self, started: oneshot::Sender<Result>) {
        let runtime = match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(started.send(Err(error.into()))),
        };
        self.shared.incidents.watch(runtime.metrics());
        let mut phase = self.shared.phase.subscribe();
        let shared = Arc::clone(&self.shared);
        runtime.block_on(async {
            match self.accept() {
                Ok((accept, told, changes, failed)) => {
                    drop(started.send(Ok(())));
                    take(accept, told, changes, &shared, failed).await;
                }
                Err(error) => return drop(started.send(Err(error))),
            }
            // The runtime serves the connections until the server has ended. The sender is in
            // `Shared`, which this thread holds, so it is never closed.
            drop(phase.wait_for(|phase| *phase == Phase::Ended).await);
        });
    }

    fn accept(
        self,
    ) -> Result<(
        All,
        watch::Receiver<WorkerOrders>,
        mpsc::UnboundedReceiver<WorkerChange>,
        FailureSender,
    )> {
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

/// Accepts connections as ordered. Dropping `failed` reports that it is done.
async fn take(
    mut accept: All,
    mut told: watch::Receiver<WorkerOrders>,
    mut changes: mpsc::UnboundedReceiver<WorkerChange>,
    shared: &Shared,
    failed: FailureSender,
) {
    ordered(&mut told, WorkerOrder::Accept).await;
    let order = loop {
        tokio::select! {
            biased;
            order = ordered(&mut told, WorkerOrder::LastCall) => break order,
            Some(change) = changes.recv() => obey(&mut accept, change, shared),
            error = poll_fn(|cx| accept.poll(cx)) => {
                accept.close();
                return failed.say(error);
            }
        }
    };
    // Peers may have connected to an endpoint that was just added. Later changes are ignored.
    while let Ok(change) = changes.try_recv() {
        obey(&mut accept, change, shared);
    }
    drop(changes);
    if order == WorkerOrder::Close {
        // The aborted connections are counted before `failed` is dropped.
        return accept.close();
    }
    accept.give_up_numbers(&told.borrow().taken);
    // The whole backlog in one turn: see `Running::close`.
    unconstrained(poll_fn(|cx| accept.poll_backlog(cx))).await;
    tokio::select! {
        biased;
        _ = ordered(&mut told, WorkerOrder::Close) => {}
        () = poll_fn(|cx| accept.poll_pending(cx)) => {}
    }
    // Before `failed` is dropped, which reports that no more connections will come.
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

/// Waits for this order or a later one. If the sender is gone, that counts as `Close`.
async fn ordered(told: &mut watch::Receiver<WorkerOrders>, order: WorkerOrder) -> WorkerOrder {
    told.wait_for(|told| told.order >= order).await.map_or(WorkerOrder::Close, |told| told.order)
}

/// Sends the error of a worker that can't go on.
struct FailureSender(mpsc::Sender<Error>);

impl FailureSender {
    fn say(&self, error: Error) {
        // The channel has room for one error of each worker.
        drop(self.0.try_send(error));
    }
}

impl Drop for FailureSender {
    fn drop(&mut self) {
        if thread::panicking() {
            self.say(Error::other("a worker has panicked, and its connections are lost"));
        }
    }
}
