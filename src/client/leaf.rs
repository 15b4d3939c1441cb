//! The connection's end of a client: a service of connections, as the server's leaves are.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ropewalk_middleware::{BoxError, CloseReason, Closing, Connection, Error, Result};
use tokio::time::{Instant, timeout_at};
use tokio_util::codec::{Decoder, Encoder};
use tower_service::Service;

use super::ClientOptions;
use super::connect::late;
use super::error::{Cause, cause};
use super::gather::{Gathers, TakePush};
use super::line::{Line, LineEnd};
use super::matching::Match;
use super::prepare::Prepare;
use super::shared::{Admission, ClientShared, Completion, Later};
use crate::session::ReturningWire;
use crate::wire::Wire;
use ropewalk_middleware::connection::LINGER;

type Serving = Pin<Box<dyn Future<Output = Result> + Send>>;

/// The connection's end of a client. The layers of [`Client::layer`](super::Client::layer) stand
/// around it.
pub struct ClientLeaf(Box<dyn ServeConnection + Send>);

impl ClientLeaf {
    pub(super) fn new(serve: impl ServeConnection + Send + 'static) -> Self {
        Self(Box::new(serve))
    }
}

impl Service<Connection> for ClientLeaf {
    type Response = ();
    type Error = Error;
    type Future = Serving;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, connection: Connection) -> Serving {
        self.0.serve(connection)
    }
}

impl fmt::Debug for ClientLeaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientLeaf").finish_non_exhaustive()
    }
}

pub(super) trait ServeConnection {
    fn serve(&mut self, connection: Connection) -> Serving;
}

/// The data that a client needs for each connection.
pub(super) struct Leaf<P, C, B, G, H, Req, Ans> {
    pub(super) shared: Arc<ClientShared<Req, Ans>>,
    pub(super) options: ClientOptions,
    pub(super) prepare: P,
    pub(super) codec: C,
    /// Makes a [`Match`] for a new connection.
    pub(super) matching: B,
    pub(super) gather: G,
    pub(super) pushes: H,
}

impl<P, C, B, M, G, H, Req, Ans> ServeConnection for Leaf<P, C, B, G, H, Req, Ans>
where
    P: Prepare<C>,
    C: Decoder<Item: Send + 'static, Error: Into<BoxError>> + Encoder<Req, Error: Into<BoxError>>,
    C: Clone + Send + 'static,
    B: Fn() -> M,
    M: Match<Req, C::Item>,
    G: Gathers<C::Item, Answer = Ans>,
    H: TakePush<C::Item>,
    Req: Send + 'static,
    Ans: Send + 'static,
{
    fn serve(&mut self, connection: Connection) -> Serving {
        let shared = Arc::clone(&self.shared);
        let options = self.options;
        let prepare = self.prepare.clone();
        let codec = self.codec.clone();
        let matching = (self.matching)();
        let gather = self.gather.clone();
        let pushes = self.pushes.clone();
        Box::pin(async move {
            let closing = connection.closing();
            let until = shared.lock().prepared_by.unwrap_or_else(Instant::now);
            let session = match timeout_at(until, prepare.begin(connection, codec)).await {
                Ok(session) => session?,
                Err(_) => return Err(late().into()),
            };
            let Some((codec, wire)) = session.into_parts() else {
                return Err(Error::other(
                    "`prepare` returned a session of a server, and not the one it was given",
                ));
            };
            let gather = gather.begin(wire.taken());
            let mut line = Line::new(shared, options, (codec, wire), (matching, gather, pushes));
            open(&line.shared);
            let end = poll_fn(|cx| line.poll(cx)).await;
            finish(line, end, &closing).await
        })
    }
}

/// Records that a connection is ready, and grants slots to waiting callers.
fn open<Req, Ans>(shared: &ClientShared<Req, Ans>) {
    let mut later = Later::default();
    let mut inner = shared.lock();
    inner.opened = Some(Instant::now());
    inner.serving = true;
    inner.counts.connections += 1;
    if inner.draining.is_none() {
        inner.gate = Admission::Open;
    }
    inner.grant(&mut later);
    drop(inner);
    shared.set_ready();
    later.run();
}

/// Ends a connection: fails the sent calls, and closes the connection according to `end`.
async fn finish<C, M, G, H, Req>(
    mut line: Line<C, M, G, H, Req>,
    end: LineEnd,
    closing: &Closing,
) -> Result
where
    C: Decoder<Error: Into<BoxError>> + Encoder<Req, Error: Into<BoxError>>,
    M: Match<Req, C::Item>,
    G: super::gather::Gather<C::Item>,
    H: TakePush<C::Item>,
{
    let why: Cause = match &end {
        LineEnd::Broken(error) => cause(Error::other(error.to_string())),
        end => cause(Error::other(end.text())),
    };
    line.fail(&end, &why);
    let shared = Arc::clone(&line.shared);
    let wire = line.into_wire();
    if !matches!(end, LineEnd::Drained | LineEnd::DrainedLate) {
        // The client's task keeps the deadlines of callers again.
        shared.lock().serving = false;
    }
    match end {
        LineEnd::Drained => {
            shared.lock().outcome = Some(Completion::Drained);
            let until = shared.lock().draining.map(|until| until.max(Instant::now()) + LINGER);
            close(wire, until).await
        }
        LineEnd::DrainedLate => {
            shared.lock().outcome = Some(Completion::Drained);
            wire.abort();
            Err(Error::other(why))
        }
        LineEnd::Aged => {
            shared.lock().outcome = Some(Completion::Aged);
            closing.set_reason(CloseReason::MaxAge);
            // All calls are answered, so the client doesn't wait for its end: a task of its own
            // closes it.
            drop(ReturningWire::without_leaf(*wire));
            Ok(())
        }
        LineEnd::Broken(error) => {
            if let Some(reason) = error.close_reason() {
                closing.set_reason(reason);
            }
            wire.abort();
            Err(error)
        }
        // This is not a failure: the server closed an idle connection.
        LineEnd::Closed => Err(Error::other(why)),
        LineEnd::Desynchronized => replace(*wire, CloseReason::Desynchronized, closing, why),
        LineEnd::OverMax | LineEnd::Stalled => replace(*wire, CloseReason::Replaced, closing, why),
    }
}

/// Aborts a connection whose answers can't be used, or that has too few of them.
fn replace(wire: Wire, reason: CloseReason, closing: &Closing, why: Cause) -> Result {
    closing.set_reason(reason);
    wire.abort();
    Err(Error::other(why))
}

/// Closes a connection whose calls are all answered, until `until` at the latest.
async fn close(mut wire: Box<Wire>, until: Option<Instant>) -> Result {
    let finished = match until {
        Some(until) => {
            timeout_at(until, wire.finish()).await.unwrap_or_else(|_| Err(late().into()))
        }
        None => wire.finish().await,
    };
    if finished.is_err() {
        wire.abort();
    }
    finished
}
