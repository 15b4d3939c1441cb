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
use std::time::Duration;

use ropewalk_middleware::event::aside;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::messages::{
    GO, GOING, HELLO, LEFT, Listed, ListedEndpoint, READY, TAKEN, VERSION, send_list, send_socket,
};
use super::{Restart, RestartError, VARIABLE};

/// Environment variables that are meant for this process only, and are not passed to the new one.
const OURS: [&str; 5] =
    ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID", "WATCHDOG_PID"];

/// A socket to hand over. It is a duplicate, so that it stays valid if the listener is closed
/// meanwhile.
pub(in crate::server) struct Passed {
    /// The number of its endpoint.
    pub(in crate::server) number: usize,
    pub(in crate::server) place: ListedEndpoint,
    pub(in crate::server) socket: OwnedFd,
    /// The path it is bound to, with its device and inode.
    pub(in crate::server) path: Option<(PathBuf, (u64, u64))>,
}

/// A restart under way, up to its next step. Dropping it kills the new process.
pub(in crate::server) type Attempt =
    Pin<Box<dyn Future<Output = Result<RestartStep, RestartError>> + Send>>;

/// A step that a restart has reached.
pub(in crate::server) enum RestartStep {
    /// The new process is ready, and waits for the message to begin.
    Ready(Box<NewProcess>),
    /// The new process has begun. With its process ID.
    Begun(u32),
}

/// How long a new process may take to confirm that it begins. It does so at once, unless it hangs.
/// Meanwhile this process goes on accepting.
const BEGIN: Duration = Duration::from_secs(5);

/// How long to wait for the exit of a killed process. After that the runtime reaps it.
const KILL: Duration = Duration::from_secs(1);

/// Starts the new process, and tells it which endpoints were removed. Done when it is ready.
pub(in crate::server) fn start(
    restart: &Restart,
    sockets: Vec<Passed>,
    removed: Vec<ListedEndpoint>,
) -> Attempt {
    let within = restart.ready_within;
    let spawned = spawn(restart);
    Box::pin(async move {
        let mut successor = Box::new(spawned?);
        match timeout(within, successor.introduce(&sockets, removed)).await {
            Ok(Ok(())) => Ok(RestartStep::Ready(successor)),
            Ok(Err(error)) => Err(successor.end(error).await),
            Err(_) => Err(successor.end(RestartError::NotReady { within }).await),
        }
    })
}

fn spawn(restart: &Restart) -> Result<NewProcess, RestartError> {
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
        // Then the watchdog is meant for another process, and is not passed on.
        command.env_remove("WATCHDOG_USEC");
    }
    let started = command.spawn();
    // The command holds the other end of the channel. It is closed here, or this process would not
    // notice the end of the new one.
    drop(command);
    match started {
        Ok(child) => Ok(NewProcess {
            child: Some(child),
            channel,
            taken: Vec::new(),
            begin_within: restart.ready_within.min(BEGIN),
        }),
        Err(cause) => {
            Err(RestartError::Start { program: restart.program.clone(), cause: Arc::new(cause) })
        }
    }
}

/// Whether an error of the channel means that the other end is gone.
fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

/// A new process that has not taken over yet. Dropping this kills it.
pub(in crate::server) struct NewProcess {
    child: Option<Child>,
    channel: UnixStream,
    /// Whether it has taken each of the sockets, in their order. The others stay with this process.
    taken: Vec<bool>,
    begin_within: Duration,
}

impl NewProcess {
    pub(in crate::server) fn taken(&self) -> &[bool] {
        &self.taken
    }

    /// Exchanges messages with it until it is ready. After an error the caller ends it.
    async fn introduce(
        &mut self,
        sockets: &[Passed],
        removed: Vec<ListedEndpoint>,
    ) -> Result<(), RestartError> {
        let told = tell(&mut self.channel, sockets, removed).await;
        self.taken = self.explain(told).await?;
        Ok(())
    }

    /// Tells it to begin, and waits for its confirmation. From then on it serves, even if this
    /// process ends.
    pub(in crate::server) fn begin(self: Box<Self>) -> Attempt {
        Box::pin(async move { self.go().await.map(RestartStep::Begun) })
    }

    async fn go(mut self: Box<Self>) -> Result<u32, RestartError> {
        let within = self.begin_within;
        let begun = async {
            let told = tell_to_begin(&mut self.channel).await;
            self.explain(told).await
        };
        match timeout(within, begun).await {
            Ok(Ok(())) => Ok(self.child.take().and_then(|child| child.id()).unwrap_or_default()),
            Ok(Err(error)) => Err(self.end(error).await),
            Err(_) => {
                let cause = io::Error::new(
                    io::ErrorKind::TimedOut,
                    "it was ready, and did not confirm that it begins",
                );
                Err(self.end(cause.into()).await)
            }
        }
    }

    /// If the error means that the process is gone, replaces it by the exit status.
    async fn explain<T>(&mut self, told: Result<T, RestartError>) -> Result<T, RestartError> {
        let ended = matches!(&told, Err(RestartError::Broken { cause }) if is_end(cause));
        match &mut self.child {
            // The process may still run, and have only closed its standard input. The caller's
            // deadline covers that case.
            Some(child) if ended => Err(RestartError::Exited { status: child.wait().await? }),
            _ => told,
        }
    }

    /// Kills it, unless it has ended already, and waits for its exit.
    async fn end(mut self: Box<Self>, error: RestartError) -> RestartError {
        if let Some(child) = &mut self.child
            && let Ok(Err(error)) = timeout(KILL, child.kill()).await
        {
            aside!(WARN, %error, "the new process could not be killed");
        }
        error
    }
}

impl Drop for NewProcess {
    fn drop(&mut self) {
        // Killed before the channel is closed: the new process would take a closed channel as the
        // end of this process, and begin to serve. The runtime reaps it.
        if let Some(child) = &mut self.child {
            drop(child.start_kill());
        }
    }
}

/// Hands over the sockets. Returns which of them were taken.
async fn tell(
    channel: &mut UnixStream,
    sockets: &[Passed],
    removed: Vec<ListedEndpoint>,
) -> Result<Vec<bool>, RestartError> {
    let mut hello = [0; HELLO.len()];
    channel.read_exact(&mut hello).await?;
    if hello != *HELLO {
        return Err(RestartError::WrongVersion);
    }
    let listed =
        |passed: &Passed| Listed { place: passed.place.clone(), path: passed.path.clone() };
    let removed = removed.into_iter().map(|place| Listed { place, path: None });
    send_list(channel, &sockets.iter().map(listed).chain(removed).collect::<Vec<_>>()).await?;
    for passed in sockets {
        send_socket(channel, passed.socket.as_fd()).await?;
    }
    if channel.read_u8().await? != READY {
        return Err(RestartError::WrongVersion);
    }
    let mut taken = Vec::with_capacity(sockets.len());
    for _ in sockets {
        taken.push(match channel.read_u8().await? {
            TAKEN => true,
            LEFT => false,
            _ => return Err(RestartError::WrongVersion),
        });
    }
    Ok(taken)
}

async fn tell_to_begin(channel: &mut UnixStream) -> Result<(), RestartError> {
    channel.write_u8(GO).await?;
    if channel.read_u8().await? == GOING { Ok(()) } else { Err(RestartError::WrongVersion) }
}
