//! Endpoints that are added, removed, paused and resumed while the server runs.

use std::io;

use ropewalk_middleware::event::aside;
use ropewalk_middleware::{Error, Result};
use tokio::sync::{mpsc, oneshot};

use super::Running;
use super::command::{Change, Closed, Command, CommandAnswer, New, NewSockets};
use crate::endpoint::{self, Endpoint, EndpointError};
use crate::listener::opened::OpenSocket;
use crate::server::books::shared::Shared;
use crate::server::books::table::EndpointState;
use crate::server::handle::Handle;
use crate::server::restart::ListedEndpoint;

fn not_running() -> Error {
    Error::other("the server does not accept: endpoints are changed while it runs")
}

impl Handle {
    /// Adds an endpoint to a running server, for the service with this name (see
    /// [`EndpointInfo::service`](crate::server::EndpointInfo::service)). Returns its number. It is
    /// bound before this returns, so peers may connect, and [`Handle::endpoints`] has its address.
    /// While a hot restart is under way, changes of endpoints wait for its outcome.
    ///
    /// ```
    /// # async fn doc(handle: ropewalk::Handle) -> ropewalk::Result {
    /// let number = handle.add_endpoint("main", "tcp:127.0.0.1:8008").await?;
    /// // Later:
    /// handle.remove_endpoint(number).await
    /// # }
    /// ```
    ///
    /// A hot restart hands it over with its options, even if the program of the new process doesn't
    /// name it. Two things can't be handed over: an endpoint whose certificates are not in files,
    /// and one of a service whose name the new process doesn't have. The old process closes such an
    /// endpoint, unless the new program names it.
    ///
    /// If it is the first endpoint with TLS or a PROXY header, the default of
    /// [`Server::max_connections`](crate::Server::max_connections) becomes as low as it would be
    /// had the server begun with it.
    ///
    /// # Errors
    ///
    /// An endpoint that is invalid or can't be bound, a name that no service has, a server that
    /// doesn't run or drains, and one that has had 65 536 endpoints: those that were removed keep
    /// their counts, about a kilobyte each.
    ///
    /// # Cancel safety
    ///
    /// If it is dropped early, the endpoint may still be added: [`Handle::endpoints`] shows whether
    /// it was.
    pub async fn add_endpoint<E>(&self, service: &str, endpoint: E) -> Result<usize>
    where
        E: TryInto<Endpoint, Error: Into<EndpointError>>,
    {
        let endpoint = endpoint.try_into().map_err(Into::into)?;
        let (control, workers) = self.0.control.get().ok_or_else(not_running)?;
        let Some(service) = self.0.endpoints.service(service) else {
            return Err(Error::other(format!("no service of the server has the name {service:?}")));
        };
        let runtime = self.0.runtime.get().ok_or_else(not_running)?;
        let shared = self.0.clone();
        // On the server's runtime, which must register the sockets.
        let adding = runtime.spawn(async move {
            let new = bind(&shared, service, endpoint, workers).await?;
            ask(&control, |answer| Command::Add(Box::new(new), answer)).await
        });
        adding.await?
    }

    /// Removes an endpoint: closes its sockets, and serves the connections that had already
    /// connected. Open connections are not affected; [`Handle::drain_these`] drains them. A path
    /// that the server has made is removed. The number is not used again. After a hot restart the
    /// endpoint stays removed, even if the program of the new process names it.
    ///
    /// # Errors
    ///
    /// There is no such endpoint, it is removed already, or the server doesn't run or drains.
    ///
    /// # Cancel safety
    ///
    /// If it is dropped early, the change may still be made. It returns when every worker has made
    /// it, so a worker that a handler blocks delays it.
    pub async fn remove_endpoint(&self, number: usize) -> Result {
        self.change(number, Change::Remove).await
    }

    /// Pauses an endpoint: connections are not accepted and wait in the backlog, until
    /// [`Handle::resume_endpoint`]. Those that were taken from the backlog before, and have a TLS
    /// handshake or a PROXY header under way, are served. After a hot restart the endpoint is still
    /// paused.
    ///
    /// # Errors
    ///
    /// As for [`Handle::remove_endpoint`].
    ///
    /// # Cancel safety
    ///
    /// As for [`Handle::remove_endpoint`].
    pub async fn pause_endpoint(&self, number: usize) -> Result {
        self.change(number, Change::Pause).await
    }

    /// Goes on accepting on an endpoint that was paused. On one that is open it does nothing.
    ///
    /// # Errors
    ///
    /// As for [`Handle::remove_endpoint`].
    ///
    /// # Cancel safety
    ///
    /// As for [`Handle::remove_endpoint`].
    pub async fn resume_endpoint(&self, number: usize) -> Result {
        self.change(number, Change::Resume).await
    }

    async fn change(&self, number: usize, change: Change) -> Result {
        let (control, _) = self.0.control.get().ok_or_else(not_running)?;
        let mut closed = ask(&control, |answer| Command::Change(number, change, answer)).await?;
        // It never receives a value: the loops drop their ends when they have made the change.
        let _ = closed.recv().await;
        Ok(())
    }
}

async fn ask<T>(
    control: &mpsc::Sender<Command>,
    command: impl FnOnce(CommandAnswer<T>) -> Command,
) -> Result<T> {
    let (answer, answered) = oneshot::channel();
    control.send(command(answer)).await.map_err(|_| not_running())?;
    answered.await.map_err(|_| not_running())?
}

async fn bind(
    shared: &Shared,
    service: usize,
    endpoint: Endpoint,
    workers: Option<usize>,
) -> Result<New> {
    let mut one = [endpoint];
    endpoint::settle(&mut one);
    let [endpoint] = one;
    endpoint.check()?;
    let preambles = shared.preambles.for_endpoint(service);
    let (sockets, address) = match workers {
        None => {
            let listeners = endpoint.bind_all(Vec::new(), &preambles).await?;
            let address = listeners.first().map(|listener| listener.local_addr());
            (NewSockets::Here(listeners), address)
        }
        Some(workers) => {
            let opened = endpoint.open(workers, Vec::new()).await?;
            let address = match opened.first() {
                Some(first) => Some(endpoint.listener(first.share()?, &preambles)?.local_addr()),
                None => None,
            };
            // Made here, where an error is reported: connections of a socket without a worker would
            // wait for ever.
            let shares = share(&opened, workers)?;
            (NewSockets::Workers { opened, shares }, address)
        }
    };
    let address = address.ok_or_else(|| Error::other("the endpoint has no socket"))?;
    Ok(New { service, endpoint, address, sockets, preambles })
}

/// A duplicate for each worker of the socket that it accepts from; several for one worker if there
/// are more sockets than workers.
fn share(opened: &[OpenSocket], workers: usize) -> io::Result<Vec<OpenSocket>> {
    opened.iter().cycle().take(workers.max(opened.len())).map(OpenSocket::share).collect()
}

impl Running<'_> {
    /// Carries out a command.
    pub(super) fn obey(&mut self, command: Command) {
        match command {
            Command::Add(new, answer) => drop(answer.send(self.add(*new))),
            Command::Change(number, change, answer) => {
                drop(answer.send(self.change(number, change)));
            }
        }
    }

    fn add(&mut self, new: New) -> Result<usize> {
        let New { service, endpoint, address, sockets, preambles } = new;
        let number = self.shared.endpoints.add(service, address, preambles)?;
        self.places.push(place(self.shared, number, &endpoint));
        if endpoint.has_preamble() {
            self.shared.leave_room_for_preambles();
        }
        self.shared.reloads.add_endpoint(number, &endpoint);
        self.front.add(number, service, &endpoint, sockets);
        log(self.shared, number, None);
        Ok(number)
    }

    fn change(&mut self, number: usize, change: Change) -> Result<Closed> {
        if matches!(self.shared.endpoints.state(number), None | Some(EndpointState::Removed)) {
            let text = format!("the server has no endpoint with the number {number}");
            return Err(Error::other(text));
        }
        self.shared.endpoints.set_state(number, change.state());
        if change == Change::Remove {
            self.shared.reloads.remove_endpoint(number);
            self.beside.iter().for_each(|beside| beside.remove(number));
        }
        let closed = self.front.change(number, change);
        log(self.shared, number, Some(change));
        Ok(closed)
    }
}

/// An endpoint as a new process is told of it.
pub(in crate::server) fn place(
    shared: &Shared,
    number: usize,
    endpoint: &Endpoint,
) -> ListedEndpoint {
    let address = shared.endpoints.address(number);
    ListedEndpoint {
        endpoint: endpoint.place(),
        service: shared.endpoints.service_of(number).unwrap_or_default(),
        added: endpoint.text(),
        address: address.map_or_else(String::new, |address| address.to_string()),
        ..ListedEndpoint::default()
    }
}

/// Logs a change of an endpoint; `None` is an addition.
fn log(shared: &Shared, number: usize, change: Option<Change>) {
    let address =
        shared.endpoints.address(number).map_or_else(String::new, |address| address.to_string());
    match change {
        None => aside!(INFO, number, %address, "an endpoint was added"),
        Some(Change::Remove) => aside!(INFO, number, %address, "an endpoint was removed"),
        Some(Change::Pause) => aside!(INFO, number, %address, "an endpoint was paused"),
        Some(Change::Resume) => aside!(INFO, number, %address, "an endpoint was resumed"),
    }
}
