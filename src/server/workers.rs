//! Accept loops on threads of their own, each with a runtime of its own; connections stay where they were accepted.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::thread;

use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::unconstrained;

use super::ConnectionService;
use super::accept::Accept;
use super::gate::Gate;
use super::restart::{Passed, RestartError};
use super::shared::{Phase, Shared};
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::listener::opened::Opened;

/// What the workers are told. Each word is said after those above it, and stands for them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    Wait,
    Accept,
    /// Close the sockets: those of these endpoints as they are, for another process has them, and the others when all that
    /// has connected is taken.
    LastCall(Vec<usize>),
    /// Close all that is not a connection yet.
    Close,
}

/// The workers of a server. Dropped, they take nothing more; their threads end with the server.
pub(super) struct Workers {
    /// By endpoint; the workers have descriptors of their own. These are for a new process to take over, and have the paths.
    sockets: Vec<Vec<Opened>>,
    /// The endpoints another process has taken.
    given_up: Vec<usize>,
    orders: watch::Sender<Order>,
    /// Tells why a worker can't go on. It ends when nothing more is to come from any of them.
    failures: mpsc::Receiver<Error>,
}

impl Workers {
    /// Starts the threads, and waits until each is ready to accept.
    pub(super) async fn start<S: ConnectionService>(
        workers: usize,
        sockets: Vec<Vec<Opened>>,
        endpoints: &[Endpoint],
        gate: &Arc<Gate<S>>,
        shared: &Arc<Shared>,
    ) -> Result<Self> {
        let orders = watch::Sender::new(Order::Wait);
        // Each fails once.
        let (failed, failures) = mpsc::channel(workers);
        let mut starting = Vec::with_capacity(workers);
        for (number, sockets) in deal(&sockets, workers)?.into_iter().enumerate() {
            let sockets = sockets.into_iter().map(|(n, socket)| (n, endpoints[n].clone(), socket)).collect();
            let (gate, shared, orders) = (Arc::clone(gate), Arc::clone(shared), orders.subscribe());
            let worker = Worker { number, sockets, gate, shared, orders, failed: Failed(failed.clone()) };
            let (started, is_started) = oneshot::channel();
            thread::Builder::new().name(format!("ropewalk-{number}")).spawn(move || worker.run(started))?;
            starting.push(is_started);
        }
        for started in starting {
            started.await??;
        }
        Ok(Self { sockets, given_up: Vec::new(), orders, failures })
    }

    /// Has the workers accept. Ready with the first error of one of them.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        self.tell(Order::Accept);
        // Each says why before it ends.
        self.failures.poll_recv(cx).map(|failure| failure.unwrap_or_else(|| Error::other("no worker is left")))
    }

    pub(super) fn hand_over(&self, places: &[String]) -> Result<Vec<Passed>, RestartError> {
        let of_all = self.sockets.iter().zip(places);
        let each = of_all.flat_map(|(sockets, place)| sockets.iter().map(move |opened| (opened, place)));
        each.map(|(opened, place)| {
            let path = opened.path.as_ref().map(|path| (path.absolute().to_owned(), path.id()));
            Ok(Passed { place: place.clone(), socket: opened.socket.try_clone()?, path })
        })
        .collect()
    }

    pub(super) fn give_up(&mut self, taken: &[bool]) {
        let numbers = self.sockets.iter().enumerate().flat_map(|(number, sockets)| sockets.iter().map(move |_| number));
        self.given_up = numbers.zip(taken).filter(|(_, taken)| **taken).map(|(number, _)| number).collect();
        for number in &self.given_up {
            set_owner(&mut self.sockets[*number], false);
        }
    }

    pub(super) fn take_back(&mut self) {
        self.given_up.clear();
        self.sockets.iter_mut().for_each(|sockets| set_owner(sockets, true));
    }

    /// Has the workers close their sockets, with a last look at those that are not given up.
    pub(super) fn close(&mut self) {
        // First: a socket listens as long as anybody has it, and none of us accepts on these.
        self.sockets.clear();
        self.tell(Order::LastCall(self.given_up.clone()));
    }

    /// Ready when each worker has taken what it was to take. One whose thread is blocked may keep us waiting.
    pub(super) fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while ready!(self.failures.poll_recv(cx)).is_some() {}
        Poll::Ready(())
    }

    fn tell(&self, order: Order) {
        self.orders.send_if_modified(|told| {
            let new = order > *told;
            if new {
                *told = order;
            }
            new
        });
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.tell(Order::Close);
    }
}

/// Whether the path of an endpoint is this process's to remove.
fn set_owner(sockets: &mut [Opened], ours: bool) {
    sockets.iter_mut().filter_map(|opened| opened.path.as_mut()).for_each(|path| path.set_owned(ours));
}

/// A share for each worker, with the numbers of the endpoints. Every worker has a socket of each endpoint, and every
/// socket a worker: where there are fewer of the ones than of the others, they are shared.
fn deal(sockets: &[Vec<Opened>], workers: usize) -> io::Result<Vec<Vec<(usize, Opened)>>> {
    let mut shares: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
    for (number, sockets) in sockets.iter().enumerate() {
        for turn in 0..workers.max(sockets.len()) {
            shares[turn % workers].push((number, sockets[turn % sockets.len()].share()?));
        }
    }
    Ok(shares)
}

/// One worker, before it has a thread.
struct Worker<S> {
    number: usize,
    sockets: Vec<(usize, Endpoint, Opened)>,
    gate: Arc<Gate<S>>,
    shared: Arc<Shared>,
    orders: watch::Receiver<Order>,
    failed: Failed,
}

impl<S: ConnectionService> Worker<S> {
    /// The thread. What fails before it is ready to accept is told to who has started it.
    fn run(self, started: oneshot::Sender<Result>) {
        let runtime = match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(started.send(Err(error.into()))),
        };
        let mut phase = self.shared.phase.subscribe();
        runtime.block_on(async {
            match self.accept() {
                Ok((accept, orders, failed)) => {
                    drop(started.send(Ok(())));
                    take(accept, orders, failed).await;
                }
                Err(error) => return drop(started.send(Err(error))),
            }
            // Meanwhile the connections are served here. The sender lives in what the gate shares with us.
            drop(phase.wait_for(|phase| *phase == Phase::Ended).await);
        });
    }

    fn accept(self) -> Result<(Accept<S>, watch::Receiver<Order>, Failed)> {
        let listener = |(number, endpoint, opened): (usize, Endpoint, Opened)| {
            Ok((number, endpoint.listener(opened, &self.shared.preambles)?))
        };
        let listeners = self.sockets.into_iter().map(listener).collect::<Result<_>>()?;
        Ok((Accept::new(listeners, self.gate, self.number), self.orders, self.failed))
    }
}

/// Takes connections as it is told, to the last one. Whether that is over is told by dropping `failed`.
async fn take<S: ConnectionService>(mut accept: Accept<S>, mut orders: watch::Receiver<Order>, failed: Failed) {
    told(&mut orders, Order::Accept).await;
    let order = tokio::select! {
        biased;
        order = told(&mut orders, Order::LastCall(Vec::new())) => order,
        error = poll_fn(|cx| accept.poll(cx)) => return failed.say(error),
    };
    let Order::LastCall(given_up) = order else { return };
    accept.give_up(given_up);
    accept.handed_over();
    // All of it in one turn: see `Running::close`.
    unconstrained(poll_fn(|cx| accept.poll_backlog(cx))).await;
    tokio::select! {
        biased;
        _ = told(&mut orders, Order::Close) => {}
        () = poll_fn(|cx| accept.poll_pending(cx)) => {}
    }
}

/// Waits for this order, or a later one. Nobody left to give any is the last.
async fn told(orders: &mut watch::Receiver<Order>, order: Order) -> Order {
    orders.wait_for(|told| *told >= order).await.map_or(Order::Close, |told| told.clone())
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
