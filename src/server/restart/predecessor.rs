//! The old process: starts the new one, hands it the sockets and waits until it is ready.

use std::env;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::{self, Stdio};
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::messages::{GO, HELLO, Listed, READY, VERSION, send_list, send_socket};
use super::{Restart, RestartError, VARIABLE};

/// What speaks to this process alone, and is not handed on.
const OURS: [&str; 5] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID", "WATCHDOG_PID"];

/// A socket to hand over: a duplicate, so that it is good whatever becomes of the listener meanwhile.
pub(in crate::server) struct Passed {
    /// The endpoint, without its options.
    pub(in crate::server) place: String,
    pub(in crate::server) socket: OwnedFd,
    /// The path it is bound to, with its device and inode.
    pub(in crate::server) path: Option<(PathBuf, (u64, u64))>,
}

/// A restart under way. Dropped, it ends the new process.
pub(in crate::server) type Attempt = Pin<Box<dyn Future<Output = Result<Box<Successor>, RestartError>> + Send>>;

/// Begins a restart: done when the new process is ready.
pub(in crate::server) fn start(restart: Restart, sockets: Vec<Passed>) -> Attempt {
    Box::pin(async move {
        let (mut child, mut channel) = spawn(&restart)?;
        match timeout(restart.ready_within, introduce(&mut child, &mut channel, &sockets)).await {
            Ok(Ok(())) => Ok(Box::new(Successor { child, channel })),
            Ok(Err(error)) => Err(child.end(error).await),
            Err(_) => Err(child.end(RestartError::NotReady { within: restart.ready_within }).await),
        }
    })
}

fn spawn(restart: &Restart) -> Result<(Guard, UnixStream), RestartError> {
    let (ours, theirs) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let channel = UnixStream::from_std(ours)?;
    let mut command = Command::new(&restart.program);
    command.args(&restart.args).stdin(Stdio::from(OwnedFd::from(theirs)));
    command.env(VARIABLE, format!("{VERSION} {}", process::id()));
    for name in OURS {
        command.env_remove(name);
    }
    if env::var("WATCHDOG_PID").is_ok_and(|pid| pid != process::id().to_string()) {
        // Then the watchdog is not ours to pass on either.
        command.env_remove("WATCHDOG_USEC");
    }
    let started = command.spawn();
    // The command has the other end of the channel; with it the end of the new process would not be heard.
    drop(command);
    match started {
        Ok(child) => Ok((Guard(Some(child)), channel)),
        Err(cause) => Err(RestartError::Start { program: restart.program.clone(), cause: Arc::new(cause) }),
    }
}

/// Talks with the new process until it is ready. Any error is its end.
async fn introduce(child: &mut Guard, channel: &mut UnixStream, sockets: &[Passed]) -> Result<(), RestartError> {
    let told = tell(channel, sockets).await;
    let ended = matches!(&told, Err(RestartError::Broken { cause }) if is_end(cause));
    match &mut child.0 {
        // It may just have closed its standard input, so this is within the deadline too.
        Some(child) if ended => Err(RestartError::Exited { status: child.wait().await? }),
        _ => told,
    }
}

/// Whether an error of the channel says that the other end is gone.
fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

async fn tell(channel: &mut UnixStream, sockets: &[Passed]) -> Result<(), RestartError> {
    let mut hello = [0; HELLO.len()];
    channel.read_exact(&mut hello).await?;
    if hello != *HELLO {
        return Err(RestartError::WrongVersion);
    }
    let listed = |passed: &Passed| Listed { place: passed.place.clone(), path: passed.path.clone() };
    send_list(channel, &sockets.iter().map(listed).collect::<Vec<_>>()).await?;
    for passed in sockets {
        send_socket(channel, passed.socket.as_fd()).await?;
    }
    match channel.read_u8().await? {
        READY => Ok(()),
        _ => Err(RestartError::WrongVersion),
    }
}

/// A new process that is ready, and waits for the word to begin. Dropped, it is killed.
pub(in crate::server) struct Successor {
    child: Guard,
    channel: UnixStream,
}

impl Successor {
    /// Gives it the word. From here on it serves, whatever becomes of this process. Returns its number.
    pub(in crate::server) async fn go(mut self) -> Result<u32, RestartError> {
        self.channel.write_u8(GO).await?;
        let child = self.child.0.take();
        Ok(child.and_then(|child| child.id()).unwrap_or_default())
    }
}

/// A new process that has not taken over yet: killed, and reaped, when this is dropped.
struct Guard(Option<Child>);

impl Guard {
    /// Kills it, unless it has ended already, and waits for that.
    async fn end(mut self, error: RestartError) -> RestartError {
        if let Some(child) = &mut self.0
            && let Err(error) = child.kill().await
        {
            tracing::warn!(%error, "the new process could not be killed");
        }
        error
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // What is left of it the runtime reaps.
        if let Some(child) = &mut self.0 {
            drop(child.start_kill());
        }
    }
}
