//! `Client`, the builder.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ropewalk_middleware::Connection;
use tokio::runtime;
use tokio::time::Instant;
use tokio_util::codec::{Decoder, Encoder};
use tower_layer::{Identity, Layer, Stack};
use tower_service::Service;

use super::backoff::{Backoff, random};
use super::gather::{Gathers, Many, MaxAnswer, NoPushes, OnPush, One, Part, TakePush};
use super::handle::Handle;
use super::leaf::{ClientLeaf, Leaf};
use super::matching::{ByTag, Fifo, Match, Tag};
use super::prepare::{Prepare, Prepared, Unprepared};
use super::service::Pipelined;
use super::shared::Shared;
use super::task::Task;
use crate::endpoint::Remote;
use crate::error::{BoxError, Error, Result};
use crate::session::Session;
use crate::wire::after;

/// The bounds of a client, and how long it waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    pub(super) connect_within: Duration,
    pub(super) backoff: Backoff,
    pub(super) in_flight: usize,
    pub(super) call_within: Duration,
    pub(super) stalled_after: Duration,
    pub(super) fail_fast_after: Option<Duration>,
    pub(super) max_age: Option<Duration>,
}

impl Options {
    /// When a connection that was made now is to be replaced: up to a tenth earlier than its greatest age, so that those that
    /// began together do not end together.
    pub(super) fn expires(&self, now: Instant) -> Option<Instant> {
        self.max_age.map(|age| after(now, age.mul_f64(1.0 - random() / 10.0)))
    }
}

/// A client of many callers, as it is set up: see the [module](self::super). The order of the methods is free; at the end
/// stands [`pipelined`](Self::pipelined) or [`tagged`](Self::tagged).
#[must_use = "a client connects when `pipelined` or `tagged` is called"]
pub struct Client<P = Unprepared, L = Identity, G = One, H = NoPushes> {
    /// What is wrong with one is told at the end.
    remotes: Vec<Result<Remote>>,
    options: Options,
    prepare: P,
    layer: L,
    gather: G,
    pushes: H,
}

impl Client {
    /// One that connects to nothing yet.
    #[allow(clippy::new_without_default)] // it is the beginning of a chain
    pub fn new() -> Self {
        let options = Options {
            connect_within: Duration::from_secs(10),
            backoff: Backoff::default(),
            in_flight: 64,
            call_within: Duration::from_secs(30),
            stalled_after: Duration::from_secs(60),
            fail_fast_after: None,
            max_age: None,
        };
        Self {
            remotes: Vec::new(),
            options,
            prepare: Unprepared::default(),
            layer: Identity::new(),
            gather: One::default(),
            pushes: NoPushes::default(),
        }
    }
}

impl<P, L, G, H> Client<P, L, G, H> {
    /// Where to: a [`Remote`], or a string. Several are alternatives: after a failure the next one is tried.
    pub fn connect<R>(mut self, to: R) -> Self
    where
        R: TryInto<Remote, Error: Into<Error>>,
    {
        self.remotes.push(to.try_into().map_err(Into::into));
        self
    }

    /// How long an attempt may take in all: the look-up of the name, the connection, its TLS handshake, and what
    /// [`prepare`](Self::prepare) does. 10 s by default.
    pub fn connect_within(mut self, patience: Duration) -> Self {
        self.options.connect_within = patience;
        self
    }

    /// How long it waits between two attempts; between 100 ms and 30 s by default.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.options.backoff = backoff;
        self
    }

    /// How many calls may be queued or out at once, at least 1; 64 by default. The other callers wait in `poll_ready`.
    ///
    /// With 1 each call has the connection for itself until its answer has come.
    pub fn in_flight(mut self, calls: usize) -> Self {
        self.options.in_flight = calls.max(1);
        self
    }

    /// How long a call may take: the wait for a place, in the queue, the write and the answer together. 30 s by default.
    ///
    /// A call that was sent, and is out of time, keeps its place until its answer has come, or the connection is replaced.
    pub fn call_within(mut self, patience: Duration) -> Self {
        self.options.call_within = patience;
        self
    }

    /// After so long without any answer, though a call is out, the connection is replaced; 60 s by default. It is replaced as
    /// well once every place is held by a call that is out of time: a server that is stuck must not take all callers with it.
    pub fn stalled_after(mut self, patience: Duration) -> Self {
        self.options.stalled_after = patience;
        self
    }

    /// When there has been no connection for so long, callers do not wait until they are out of time: they fail at once with
    /// [`Unavailable`](super::ClientError::Unavailable), until there is one again. Without this they wait.
    pub fn fail_fast_after(mut self, patience: Duration) -> Self {
        self.options.fail_fast_after = Some(patience);
        self
    }

    /// The greatest age of a connection, of which up to a tenth is taken off at random: then it is replaced, and no call fails
    /// by it. Those that are out are answered first; those that are queued go to the new one. At least 1 s; unlimited by default.
    pub fn max_age(mut self, age: Duration) -> Self {
        // Or it would do nothing but connect.
        self.options.max_age = Some(age.max(Duration::from_secs(1)));
        self
    }

    /// A layer around each connection: those of a server fit (a [`LogLayer`](crate::LogLayer) has a line for each). The first one
    /// added sees a connection first.
    pub fn layer<N>(self, layer: N) -> Client<P, Stack<N, L>, G, H> {
        let Self { remotes, options, prepare, layer: others, gather, pushes } = self;
        Client { remotes, options, prepare, layer: Stack::new(layer, others), gather, pushes }
    }

    /// What is done with each new connection before any call is: a greeting, a login, STARTTLS. A session goes in, and one of the
    /// same codec comes out, which the calls go on with. It is under the deadline of
    /// [`connect_within`](Self::connect_within). An error is that of the attempt; see [`fatal`](super::fatal) for one that no
    /// other attempt can help.
    ///
    /// ```
    /// use ropewalk::client::Client;
    /// use ropewalk::{Lines, Session};
    ///
    /// # let _ =
    /// Client::new().connect("tcp:store.example.org:7000").prepare(async |mut s: Session<Lines>| {
    ///     s.next().await?;
    ///     Ok(s)
    /// });
    /// ```
    pub fn prepare<C, F, Fut>(self, f: F) -> Client<Prepared<C>, L, G, H>
    where
        F: Fn(Session<C>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Session<C>>> + Send + 'static,
    {
        let Self { remotes, options, layer, gather, pushes, .. } = self;
        Client { remotes, options, prepare: Prepared::new(f), layer, gather, pushes }
    }

    /// The same with a state, a clone of which the function takes: an `async` closure that captures would give it away to the
    /// first connection.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use ropewalk::client::Client;
    /// use ropewalk::{Lines, Session};
    ///
    /// let password: Arc<str> = "secret".into();
    /// # let _ =
    /// Client::new().connect("tcp:store.example.org:7000").prepare_with(password, async |mut s: Session<Lines>, password| {
    ///     s.reply(&*password)?;
    ///     s.next().await?;
    ///     Ok(s)
    /// });
    /// ```
    pub fn prepare_with<C, T, F, Fut>(self, state: T, f: F) -> Client<Prepared<C>, L, G, H>
    where
        T: Clone + Send + Sync + 'static,
        F: Fn(Session<C>, T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Session<C>>> + Send + 'static,
    {
        self.prepare(move |session| f(session, state.clone()))
    }

    /// Answers of several frames: the function tells what a frame is, and an answer is the `Vec` of its frames, up to
    /// [`Part::Last`]. See [`max_answer`](Client::max_answer) for its bounds, and [`on_push`](Self::on_push) for frames that
    /// answer nothing. For [`pipelined`](Self::pipelined) only.
    ///
    /// ```
    /// use ropewalk::client::{Client, Part};
    /// use ropewalk::{Bytes, Lines, Server, framed, memory, reply_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> ropewalk::Result {
    /// # let (endpoint, connector) = memory::endpoint();
    /// # let list = reply_fn(|_: Bytes| ropewalk::Reply::many(["a", "b", "."].map(Bytes::from)));
    /// # tokio::spawn(Server::new().listen(endpoint).serve(framed(Lines::lf(), list)).into_future());
    /// let until_dot = |line: &Bytes| if line == "." { Part::Last } else { Part::More };
    /// let (list, _handle) = Client::new().connect(connector).answers(until_dot).pipelined::<String, _>(Lines::lf())?;
    /// assert_eq!(list.ask("LIST").await?, ["a", "b", "."]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn answers<Item, F>(self, part: F) -> Client<P, L, Many<F>, H>
    where
        F: Fn(&Item) -> Part + Send + Sync + 'static,
    {
        let Self { remotes, options, prepare, layer, pushes, .. } = self;
        Client { remotes, options, prepare, layer, gather: Many(Arc::new(part), MaxAnswer::default()), pushes }
    }

    /// Takes the frames that answer nothing. It is called by the connection's task, in the order of the frames, and must not
    /// block; no call is answered meanwhile. What it does with a frame it can't take (a full channel) is its own. Without it they
    /// are dropped.
    ///
    /// ```
    /// use ropewalk::client::{Client, Part};
    /// use ropewalk::{Bytes, Lines};
    ///
    /// let (sender, _pushes) = tokio::sync::mpsc::channel(64);
    /// # let _ =
    /// Client::new()
    ///     .connect("tcp:news.example.org:7000")
    ///     .answers(|line: &Bytes| if line.starts_with(b">") { Part::Push } else { Part::Last })
    ///     .on_push(move |line: Bytes| drop(sender.try_send(line)));
    /// ```
    pub fn on_push<Item, F>(self, f: F) -> Client<P, L, G, OnPush<F>>
    where
        F: Fn(Item) + Send + Sync + 'static,
    {
        let Self { remotes, options, prepare, layer, gather, .. } = self;
        Client { remotes, options, prepare, layer, gather, pushes: OnPush(Arc::new(f)) }
    }

    /// Connects by itself, at once, in a task of its own, and calls one after the other: the n-th answer is that of the n-th call.
    /// The codec is cloned for each connection. `Req` is what the codec encodes.
    ///
    /// # Errors
    ///
    /// A string that is no remote, none at all, a certificate that can't be read; and outside of a tokio runtime. A server that
    /// can't be reached is no error here: it is tried again.
    pub fn pipelined<Req, C>(self, codec: C) -> Result<(Pipelined<Req, G::Answer>, Handle)>
    where
        Req: Send + 'static,
        C: Decoder<Item: Send + 'static, Error: Into<BoxError>> + Encoder<Req, Error: Into<BoxError>>,
        C: Clone + Send + 'static,
        P: Prepare<C>,
        G: Gathers<C::Item>,
        H: TakePush<C::Item>,
        L: Layer<ClientLeaf>,
        L::Service: Service<Connection, Response = (), Error: Into<BoxError>, Future: Send> + Send + 'static,
    {
        self.start(codec, Fifo::default)
    }

    fn start<Req, C, M>(
        self,
        codec: C,
        matching: impl Fn() -> M + Send + 'static,
    ) -> Result<(Pipelined<Req, G::Answer>, Handle)>
    where
        Req: Send + 'static,
        C: Decoder<Item: Send + 'static, Error: Into<BoxError>> + Encoder<Req, Error: Into<BoxError>>,
        C: Clone + Send + 'static,
        M: Match<Req, C::Item>,
        P: Prepare<C>,
        G: Gathers<C::Item>,
        H: TakePush<C::Item>,
        L: Layer<ClientLeaf>,
        L::Service: Service<Connection, Response = (), Error: Into<BoxError>, Future: Send> + Send + 'static,
    {
        let Self { remotes, options, prepare, layer, gather, pushes } = self;
        let remotes = remotes.into_iter().collect::<Result<Vec<_>>>()?;
        if remotes.is_empty() {
            return Err(Error::other("the client has nothing to connect to: Client::connect says where to"));
        }
        #[cfg(feature = "tls")]
        remotes.iter().try_for_each(Remote::load)?;
        let runtime = runtime::Handle::try_current()?;
        let shared = Shared::new(options.in_flight, options.call_within);
        let (service, handle) = (Pipelined::new(Arc::clone(&shared)), Handle::new(Arc::clone(&shared)));
        let leaf = Leaf { shared: Arc::clone(&shared), options, prepare, codec, matching, gather, pushes };
        let around = layer.layer(ClientLeaf::new(leaf));
        let _entered = runtime.enter();
        runtime.spawn(Task::new(shared, options).run(remotes, around));
        Ok((service, handle))
    }
}

impl<P, L, F, H> Client<P, L, Many<F>, H> {
    /// The most frames and bytes of one answer; 65 536 and 16 MiB by default. Over it the connection is replaced, and the calls
    /// that are out fail with [`MayHaveArrived`](super::ClientError::MayHaveArrived).
    pub fn max_answer(mut self, frames: usize, bytes: u64) -> Self {
        self.gather.1 = MaxAnswer { frames, bytes };
        self
    }
}

impl<P, L, H> Client<P, L, One, H> {
    /// The same as [`pipelined`](Self::pipelined) for a protocol whose answers come in any order, by the [`Tag`] that each has.
    /// The tag is cloned for each connection.
    ///
    /// # Errors
    ///
    /// As [`pipelined`](Self::pipelined).
    pub fn tagged<Req, C, T>(self, codec: C, tag: T) -> Result<(Pipelined<Req, C::Item>, Handle)>
    where
        Req: Send + 'static,
        C: Decoder<Item: Send + 'static, Error: Into<BoxError>> + Encoder<Req, Error: Into<BoxError>>,
        C: Clone + Send + 'static,
        T: Tag<Req, C::Item, Id: Send + 'static> + Clone + Send + 'static,
        P: Prepare<C>,
        H: TakePush<C::Item>,
        L: Layer<ClientLeaf>,
        L::Service: Service<Connection, Response = (), Error: Into<BoxError>, Future: Send> + Send + 'static,
    {
        self.start(codec, move || ByTag::new(tag.clone()))
    }
}

impl<P, L, G, H> fmt::Debug for Client<P, L, G, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("remotes", &self.remotes).field("options", &self.options).finish_non_exhaustive()
    }
}
