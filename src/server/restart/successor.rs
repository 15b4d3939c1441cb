//! The new process: takes over the sockets of the process that started it.

use std::env;
use std::fs::File;
use std::io::{self, stdin};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ropewalk_middleware::event::aside;
use rustix::process::getppid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::VARIABLE;
use super::messages::{
    GO, GOING, HELLO, LEFT, ListedEndpoint, READY, TAKEN as WAS_TAKEN, VERSION, receive_list,
    receive_socket,
};
use crate::endpoint::Endpoint;
use crate::listener::opened::OpenSocket;
use crate::listener::path::BoundPath;
use ropewalk_middleware::{Addr, Error, Result};

/// How long the old process may take for each answer. It answers at once, unless it is suspended.
const ANSWER: Duration = Duration::from_secs(60);

/// Whether a server of this process has taken the channel. There is only one.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The handover of a restart, in the new process, until it has taken over.
pub(in crate::server) struct Takeover {
    channel: UnixStream,
    /// Each endpoint with its socket; `None` when an endpoint of this process has taken it.
    sockets: Vec<(ListedEndpoint, Option<OpenSocket>)>,
    /// The endpoints that a handle has removed.
    removed: Vec<ListedEndpoint>,
}

/// The part of an endpoint's state that the old process has handed over.
#[derive(Default)]
pub(in crate::server) struct InheritedEndpoint {
    /// One socket, or one for each worker. If it is empty, the endpoint is opened anew.
    pub(in crate::server) sockets: Vec<OpenSocket>,
    pub(in crate::server) paused: bool,
    /// The address the endpoint had, if it was removed. Then it stays removed.
    pub(in crate::server) removed: Option<Addr>,
}

impl Takeover {
    /// Receives the sockets, if this process was started to take over from another one.
    pub(in crate::server) async fn begin() -> Result<Option<Self>> {
        let Some(version) = announced() else { return Ok(None) };
        if TAKEN.swap(true, Ordering::Relaxed) {
            return Ok(None);
        }
        if version != VERSION.to_string() {
            let text = format!(
                "the old process uses version {version} of the restart protocol, this one version {VERSION}"
            );
            return Err(Error::other(text));
        }
        let channel = channel()?;
        match timeout(ANSWER, receive(channel)).await {
            Ok(received) => Ok(Some(received?)),
            Err(_) => Err(Error::other("the old process did not hand over its sockets in time")),
        }
    }

    /// Takes the state of an endpoint that this program names: `wanted` has its text, its service,
    /// and whether its server is beside another one. If the old process had several such endpoints,
    /// that of the first one that is left.
    pub(in crate::server) fn take(&mut self, wanted: &ListedEndpoint) -> InheritedEndpoint {
        let alike = |place: &ListedEndpoint| {
            place.endpoint == wanted.endpoint && place.beside == wanted.beside
        };
        let same = |place: &ListedEndpoint| alike(place) && place.service == wanted.service;
        if self.sockets.iter().any(|(place, socket)| socket.is_some() && same(place)) {
            return self.take_sockets(same);
        }
        if let Some(at) = self.removed.iter().position(same) {
            let address = self.removed.remove(at).address;
            // Only endpoints in memory and those made in code have no text.
            let address =
                address.parse().ok().and_then(|at: Endpoint| at.addr()).unwrap_or(Addr::Memory);
            return InheritedEndpoint { removed: Some(address), ..InheritedEndpoint::default() };
        }
        // The name of the service may have changed.
        self.take_sockets(alike)
    }

    /// Takes the next endpoint that a handle had added and that this program does not name, with
    /// the number of its service.
    pub(in crate::server) fn take_added(
        &mut self,
        services: &[Arc<str>],
    ) -> Result<Option<(usize, Endpoint, InheritedEndpoint)>> {
        for (place, _) in self.sockets.iter().filter(|(_, socket)| socket.is_some()) {
            let service = services.iter().position(|name| *name == place.service);
            let (Some(service), Some(text)) = (service, &place.added) else { continue };
            let endpoint = text.parse()?;
            let place = place.clone();
            return Ok(Some((service, endpoint, self.take_sockets(|other| *other == place))));
        }
        Ok(None)
    }

    fn take_sockets(&mut self, wanted: impl Fn(&ListedEndpoint) -> bool) -> InheritedEndpoint {
        let mut taken = InheritedEndpoint::default();
        for (place, socket) in self.sockets.iter_mut().filter(|(place, _)| wanted(place)) {
            // A server that listens on port 0 twice has two ports. The sockets of one port belong
            // to one endpoint.
            let beside = |opened: &mut OpenSocket| {
                taken.sockets.first().is_none_or(|first| opened.is_beside(first))
            };
            if let Some(opened) = socket.take_if(beside) {
                taken.paused = place.paused;
                taken.sockets.push(opened);
            }
        }
        taken
    }

    /// Reports that this process is ready and which sockets it has taken, and waits until the old
    /// one has handed over.
    pub(in crate::server) async fn take_over(mut self) -> Result {
        let mut ready = vec![READY];
        let mut left = Vec::new();
        for (place, socket) in self.sockets.drain(..) {
            ready.push(if socket.is_some() { LEFT } else { WAS_TAKEN });
            left.extend(socket.map(|_| place.endpoint));
        }
        // An endpoint may have several sockets, one for each worker.
        left.dedup();
        self.channel.write_all(&ready).await?;
        for endpoint in left {
            aside!(WARN, %endpoint, "the old process listened on this endpoint, and this one does not");
        }
        match timeout(ANSWER, self.channel.read_u8()).await {
            Ok(Ok(GO)) => {
                // If the old process has ended, the sockets belong to this one as well.
                drop(self.channel.write_u8(GOING).await);
                Ok(())
            }
            // The old process has ended without a message, so the sockets belong to this one.
            Ok(Err(error))
                if matches!(
                    error.kind(),
                    io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
                ) =>
            {
                Ok(())
            }
            Ok(Ok(_)) => Err(Error::other("the old process sent an unknown message")),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(Error::other("the old process did not hand over in time")),
        }
    }
}

/// The version of the protocol, if the process that started this one has announced a handover to
/// it.
fn announced() -> Option<String> {
    let announced = env::var(VARIABLE).ok()?;
    let (version, process) = announced.split_once(' ')?;
    // A child of the new process inherits the variable, but its standard input is not the channel.
    let parent = getppid().map(|pid| pid.as_raw_nonzero().get())?;
    (process.parse() == Ok(parent)).then(|| version.to_owned())
}

/// The channel, which was passed as standard input. Standard input is replaced by an empty one, so
/// that no other code reads from the channel.
fn channel() -> io::Result<UnixStream> {
    let channel = StdUnixStream::from(stdin().as_fd().try_clone_to_owned()?);
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    channel.set_nonblocking(true)?;
    UnixStream::from_std(channel)
}

async fn receive(mut channel: UnixStream) -> io::Result<Takeover> {
    channel.write_all(HELLO).await?;
    let mut sockets = Vec::new();
    let mut removed = Vec::new();
    for listed in receive_list(&mut channel).await? {
        if listed.place.removed {
            removed.push(listed.place);
            continue;
        }
        let socket = receive_socket(&channel).await?;
        let path = listed.path.map(|(path, id)| BoundPath::inherited(path, id));
        sockets.push((listed.place, Some(OpenSocket { path, socket })));
    }
    Ok(Takeover { channel, sockets, removed })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use tokio::net::UnixStream;

    use super::{ListedEndpoint, Takeover};
    use crate::listener::opened::OpenSocket;

    #[tokio::test]
    async fn a_server_does_not_take_the_endpoint_of_one_beside_it_although_both_have_the_same_text()
    {
        let place = |beside| ListedEndpoint {
            endpoint: "tcp:127.0.0.1:0".to_owned(),
            service: "main".into(),
            beside,
            ..ListedEndpoint::default()
        };
        let socket = TcpListener::bind("127.0.0.1:0").unwrap().into();
        let mut takeover = Takeover {
            channel: UnixStream::pair().unwrap().0,
            sockets: vec![(place(true), Some(OpenSocket { path: None, socket }))],
            removed: vec![ListedEndpoint { removed: true, ..place(false) }],
        };
        let main = takeover.take(&place(false));
        assert!(main.removed.is_some() && main.sockets.is_empty());
        assert!(takeover.take(&place(false)).sockets.is_empty());
        let beside = takeover.take(&place(true));
        assert!(beside.removed.is_none());
        assert_eq!(beside.sockets.len(), 1);
    }
}
