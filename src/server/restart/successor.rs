//! The new process: takes over the sockets of the process that started it.

use std::env;
use std::fs::File;
use std::io::{self, stdin};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ropewalk_middleware::event::aside;
use rustix::process::getppid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::VARIABLE;
use super::messages::{
    GO, GOING, HELLO, LEFT, READY, TAKEN as WAS_TAKEN, VERSION, receive_list, receive_socket,
};
use crate::listener::opened::OpenSocket;
use crate::listener::path::BoundPath;
use ropewalk_middleware::{Error, Result};

/// How long the old process may take for each answer. It answers at once, unless it is suspended.
const ANSWER: Duration = Duration::from_secs(60);

/// Whether a server of this process has taken the channel. There is only one.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The handover of a restart, in the new process, until it has taken over.
pub(in crate::server) struct Takeover {
    channel: UnixStream,
    /// Each endpoint with its socket; `None` when an endpoint of this process has taken it.
    sockets: Vec<(String, Option<OpenSocket>)>,
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
        let mut channel = channel()?;
        let sockets = match timeout(ANSWER, receive(&mut channel)).await {
            Ok(sockets) => sockets?,
            Err(_) => {
                return Err(Error::other("the old process did not hand over its sockets in time"));
            }
        };
        Ok(Some(Self { channel, sockets }))
    }

    /// Takes the sockets of an endpoint, if the old process had it: one, or one for each worker. If
    /// the old process had several such endpoints, those of the first one that is left.
    pub(in crate::server) fn take(&mut self, place: &str) -> Vec<OpenSocket> {
        let mut taken: Vec<OpenSocket> = Vec::new();
        for (_, socket) in self.sockets.iter_mut().filter(|(other, _)| other == place) {
            // A server that listens on port 0 twice has two ports. The sockets of one port belong
            // to one endpoint.
            taken.extend(
                socket.take_if(|opened| taken.first().is_none_or(|first| opened.is_beside(first))),
            );
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
            left.extend(socket.map(|_| place));
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

async fn receive(channel: &mut UnixStream) -> io::Result<Vec<(String, Option<OpenSocket>)>> {
    channel.write_all(HELLO).await?;
    let mut sockets = Vec::new();
    for listed in receive_list(channel).await? {
        let socket = receive_socket(channel).await?;
        let path = listed.path.map(|(path, id)| BoundPath::inherited(path, id));
        sockets.push((listed.place, Some(OpenSocket { path, socket })));
    }
    Ok(sockets)
}
