//! A leaf that hands a connection on to another server.

use std::fmt;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ropewalk_middleware::{CloseReason, Connection, Error, Result, Stats};
use tokio::io::copy_bidirectional;
use tokio::time::{sleep, timeout};
use tower_service::Service;

use super::connect::{dial, late};
use crate::endpoint::error::ConnectError;
use crate::endpoint::remote::Remote;

/// How long connecting to the remote may take: the look-up of a name and all its addresses, the
/// header and the handshake.
const CONNECT: Duration = Duration::from_secs(15);

/// Makes a service of connections that connects to a [`Remote`] for each, and copies bytes both
/// ways until both sides have ended.
///
/// Each direction ends separately: a half-close of one side is passed on, and the other direction
/// goes on. If one side breaks, the other is aborted. A connection to a remote with `proxy+` begins
/// with a PROXY header that describes the client, as far as it is known behind other proxies. A
/// draining server lets these connections end by themselves, up to its deadline, because it can't
/// know where a request ends.
///
/// ```
/// use std::time::Duration;
/// use ropewalk::client::forward;
/// use ropewalk::Server;
///
/// # fn main() -> ropewalk::Result {
/// let forward = forward("proxy+tcp:backend.example.org:80")?.idle(Duration::from_secs(300));
/// # let _ =
/// Server::new().listen("tcp:8007").serve(forward);
/// # Ok(())
/// # }
/// ```
///
/// While a connection lasts, it holds two buffers of 8 KiB.
///
/// # Errors
///
/// A string that is not a valid remote, and with TLS a file that can't be read. If the remote can't
/// be reached, that is an error of the connection, which is closed.
pub fn forward<R>(to: R) -> Result<Forward>
where
    R: TryInto<Remote, Error: Into<Error>>,
{
    let remote = to.try_into().map_err(Into::into)?;
    #[cfg(feature = "rustls")]
    remote.load()?;
    Ok(Forward { remote: Arc::new(remote), connect_within: CONNECT, idle: None })
}

/// The service of connections that [`forward`] makes.
#[derive(Clone)]
#[must_use = "a leaf serves nothing until it is handed to a server"]
pub struct Forward {
    remote: Arc<Remote>,
    connect_within: Duration,
    idle: Option<Duration>,
}

impl Forward {
    /// How long connecting to the remote may take; 15 s by default.
    pub fn connect_within(mut self, patience: Duration) -> Self {
        self.connect_within = patience;
        self
    }

    /// Both connections are aborted once no bytes have moved for this time, or for up to twice as
    /// long. Unlimited by default.
    pub fn idle(mut self, patience: impl Into<Option<Duration>>) -> Self {
        self.idle = patience.into();
        self
    }

    async fn run(self, mut client: Connection) -> Result {
        let told = client.peer().proxied().and_then(|proxied| proxied.destination()).cloned();
        let source = client.peer().addr().clone();
        let destination = told.unwrap_or_else(|| client.local());
        let dialed =
            timeout(self.connect_within, dial(&self.remote, Some((&source, &destination)))).await;
        let mut server = match dialed {
            Ok(dialed) => dialed?,
            Err(_) => return Err(ConnectError::new(self.remote.to_string(), late()).into()),
        };
        let closing = client.closing();
        tokio::select! {
            () = silence(client.stats(), self.idle) => drop(closing.set_reason(CloseReason::IdleTimeout)),
            copied = copy_bidirectional(&mut client, &mut server) => match copied {
                Ok(_) => {
                    client.close().await;
                    return Ok(());
                }
                Err(_) => drop(closing.set_reason(CloseReason::PeerReset)),
            },
        }
        client.abort();
        server.abort();
        Ok(())
    }
}

/// Ready once no bytes have moved for this time, or for up to twice as long.
async fn silence(stats: Stats, patience: Option<Duration>) {
    let Some(patience) = patience else { return pending().await };
    let mut before = None;
    while before.replace((stats.bytes_in(), stats.bytes_out()))
        != Some((stats.bytes_in(), stats.bytes_out()))
    {
        sleep(patience).await;
    }
}

impl Service<Connection> for Forward {
    type Response = ();
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, client: Connection) -> Self::Future {
        Box::pin(self.clone().run(client))
    }
}

impl fmt::Debug for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forward")
            .field("remote", &self.remote)
            .field("idle", &self.idle)
            .finish_non_exhaustive()
    }
}
