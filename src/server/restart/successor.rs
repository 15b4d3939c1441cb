//! The new process: takes the sockets of the one that started it.

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
    GO, GOING, HELLO, LEFT, Place, READY, TAKEN as WAS_TAKEN, VERSION, receive_list, receive_socket,
};
use crate::endpoint::Endpoint;
use crate::listener::opened::Opened;
use crate::listener::unix::BoundPath;
use ropewalk_middleware::{Addr, Error, Result};

/// How long the old process may take over any of its answers. It answers at once unless it is
/// stopped.
const ANSWER: Duration = Duration::from_secs(60);

/// Taken by the first server of this process; there is one channel.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// This process is the new one of a restart: what it was handed, until it has taken over.
pub(in crate::server) struct Succession {
    channel: UnixStream,
    /// Those that are left stand in their places; the others were taken.
    sockets: Vec<(Place, Option<Opened>)>,
    /// The endpoints that a handle has removed.
    removed: Vec<Place>,
}

/// What an endpoint of the new process has of the old one.
#[derive(Default)]
pub(in crate::server) struct Inherited {
    /// One socket, or those of its workers. Without any the endpoint is opened anew.
    pub(in crate::server) sockets: Vec<Opened>,
    pub(in crate::server) paused: bool,
    /// It was removed, and stays so; the address it had.
    pub(in crate::server) removed: Option<Addr>,
}

impl Succession {
    /// Receives the sockets, if this process was started to take over from another one.
    pub(in crate::server) async fn begin() -> Result<Option<Self>> {
        let Some(version) = announced() else { return Ok(None) };
        if TAKEN.swap(true, Ordering::Relaxed) {
            return Ok(None);
        }
        if version != VERSION.to_string() {
            let text = format!(
                "the server to take over from restarts by protocol {version}, this one by {VERSION}"
            );
            return Err(Error::other(text));
        }
        let channel = channel()?;
        match timeout(ANSWER, receive(channel)).await {
            Ok(received) => Ok(Some(received?)),
            Err(_) => {
                Err(Error::other("the server to take over from does not hand over its sockets"))
            }
        }
    }

    /// What the old process had of an endpoint that this program names. Of several endpoints the
    /// first that is left.
    pub(in crate::server) fn take(&mut self, endpoint: &str, service: &str) -> Inherited {
        let same = |place: &Place| place.endpoint == endpoint && *place.service == *service;
        if self.sockets.iter().any(|(place, socket)| socket.is_some() && same(place)) {
            return self.take_sockets(same);
        }
        if let Some(at) = self.removed.iter().position(same) {
            let address = self.removed.remove(at).address;
            // In memory, or made in code: all others have a text.
            let address =
                address.parse().ok().and_then(|at: Endpoint| at.addr()).unwrap_or(Addr::Memory);
            return Inherited { removed: Some(address), ..Inherited::default() };
        }
        // The service may have another name by now.
        self.take_sockets(|place| place.endpoint == endpoint)
    }

    /// The next endpoint that a handle had added, and that this program does not name, with the
    /// number of its service.
    pub(in crate::server) fn take_added(
        &mut self,
        services: &[Arc<str>],
    ) -> Result<Option<(usize, Endpoint, Inherited)>> {
        for (place, _) in self.sockets.iter().filter(|(_, socket)| socket.is_some()) {
            let service = services.iter().position(|name| *name == place.service);
            let (Some(service), Some(text)) = (service, &place.added) else { continue };
            let (place, endpoint) = (place.clone(), text.parse()?);
            return Ok(Some((service, endpoint, self.take_sockets(|other| *other == place))));
        }
        Ok(None)
    }

    fn take_sockets(&mut self, wanted: impl Fn(&Place) -> bool) -> Inherited {
        let mut taken = Inherited::default();
        for (place, socket) in self.sockets.iter_mut().filter(|(place, _)| wanted(place)) {
            // Who listens on port 0 twice has two ports, and the sockets of one are one endpoint's.
            let beside = |opened: &mut Opened| {
                taken.sockets.first().is_none_or(|first| opened.is_beside(first))
            };
            if let Some(opened) = socket.take_if(beside) {
                taken.paused = place.paused;
                taken.sockets.push(opened);
            }
        }
        taken
    }

    /// Says that this process is ready and which sockets it has taken, and waits until the old one
    /// has made way.
    pub(in crate::server) async fn take_over(mut self) -> Result {
        let (mut ready, mut left) = (vec![READY], Vec::new());
        for (place, socket) in self.sockets.drain(..) {
            ready.push(if socket.is_some() { LEFT } else { WAS_TAKEN });
            left.extend(socket.map(|_| place.endpoint));
        }
        // Workers have several sockets there.
        left.dedup();
        self.channel.write_all(&ready).await?;
        for endpoint in left {
            aside!(WARN, %endpoint, "the server taken over from listened there, and this one does not");
        }
        match timeout(ANSWER, self.channel.read_u8()).await {
            Ok(Ok(GO)) => {
                // If nobody is left to hear it, all is ours just the same.
                drop(self.channel.write_u8(GOING).await);
                Ok(())
            }
            // It is gone without a word, and so all is ours anyway.
            Ok(Err(error))
                if matches!(
                    error.kind(),
                    io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
                ) =>
            {
                Ok(())
            }
            Ok(Ok(_)) => Err(Error::other(
                "the server to take over from says what this one does not understand",
            )),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(Error::other("the server to take over from does not make way")),
        }
    }
}

/// The version of the protocol, if the process that started this one says that it is to take over.
fn announced() -> Option<String> {
    let announced = env::var(VARIABLE).ok()?;
    let (version, process) = announced.split_once(' ')?;
    // A child of the new process inherits the variable, and its standard input is something else.
    let parent = getppid().map(|pid| pid.as_raw_nonzero().get())?;
    (process.parse() == Ok(parent)).then(|| version.to_owned())
}

/// The channel, which came as standard input. Nobody else is to read from it, so that one becomes
/// empty.
fn channel() -> io::Result<UnixStream> {
    let channel = StdUnixStream::from(stdin().as_fd().try_clone_to_owned()?);
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    channel.set_nonblocking(true)?;
    UnixStream::from_std(channel)
}

async fn receive(mut channel: UnixStream) -> io::Result<Succession> {
    channel.write_all(HELLO).await?;
    let (mut sockets, mut removed) = (Vec::new(), Vec::new());
    for listed in receive_list(&mut channel).await? {
        if listed.place.removed {
            removed.push(listed.place);
            continue;
        }
        let socket = receive_socket(&channel).await?;
        let path = listed.path.map(|(path, id)| BoundPath::inherited(path, id));
        sockets.push((listed.place, Some(Opened { path, socket })));
    }
    Ok(Succession { channel, sockets, removed })
}
