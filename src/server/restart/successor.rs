//! The new process: takes the sockets of the one that started it.

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
use crate::listener::opened::Opened;
use crate::listener::path::BoundPath;
use ropewalk_middleware::{Error, Result};

/// How long the old process may take over any of its answers. It answers at once unless it is
/// stopped.
const ANSWER: Duration = Duration::from_secs(60);

/// Taken by the first server of this process; there is one channel.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// This process is the new one of a restart: what it was handed, until it has taken over.
pub(in crate::server) struct Succession {
    channel: UnixStream,
    /// Those that are left stand in their places; the others were taken.
    sockets: Vec<(String, Option<Opened>)>,
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
        let mut channel = channel()?;
        let sockets = match timeout(ANSWER, receive(&mut channel)).await {
            Ok(sockets) => sockets?,
            Err(_) => {
                return Err(Error::other(
                    "the server to take over from does not hand over its sockets",
                ));
            }
        };
        Ok(Some(Self { channel, sockets }))
    }

    /// The sockets of an endpoint, if the old process had it: one, or those of its workers. Of
    /// several endpoints the first that is left.
    pub(in crate::server) fn take(&mut self, place: &str) -> Vec<Opened> {
        let mut taken: Vec<Opened> = Vec::new();
        for (_, socket) in self.sockets.iter_mut().filter(|(other, _)| other == place) {
            // Who listens on port 0 twice has two ports, and the sockets of one are one endpoint's.
            taken.extend(
                socket.take_if(|opened| taken.first().is_none_or(|first| opened.is_beside(first))),
            );
        }
        taken
    }

    /// Says that this process is ready and which sockets it has taken, and waits until the old one
    /// has made way.
    pub(in crate::server) async fn take_over(mut self) -> Result {
        let mut ready = vec![READY];
        let mut left = Vec::new();
        for (place, socket) in self.sockets.drain(..) {
            ready.push(if socket.is_some() { LEFT } else { WAS_TAKEN });
            left.extend(socket.map(|_| place));
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

async fn receive(channel: &mut UnixStream) -> io::Result<Vec<(String, Option<Opened>)>> {
    channel.write_all(HELLO).await?;
    let mut sockets = Vec::new();
    for listed in receive_list(channel).await? {
        let socket = receive_socket(channel).await?;
        let path = listed.path.map(|(path, id)| BoundPath::inherited(path, id));
        sockets.push((listed.place, Some(Opened { path, socket })));
    }
    Ok(sockets)
}
