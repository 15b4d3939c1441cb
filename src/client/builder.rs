//! `Client`, the builder.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ropewalk_middleware::{BoxError, Connection, Error, Result};
use tokio::runtime;
use tokio_util::codec::{Decoder, Encoder};
use tower_layer::{Identity, Layer, Stack};
use tower_service::Service;

use super::backoff::Backoff;
use super::gather::{Gathers, Many, MaxAnswer, NoPushes, OnPush, One, OneOrPush, Part, TakePush};
use super::handle::ClientHandle;
use super::leaf::{ClientLeaf, Leaf};
use super::matching::{ByTag, Fifo, Match, Tag};
use super::options::{ClientOptions, LEAST_AGE};
use super::prepare::{Prepare, Prepared, Unprepared};
use super::service::Pipelined;
use super::shared::ClientShared;
use super::task::Task;
use crate::endpoint::remote::Remote;
use crate::session::Session;

/// The builder of a client for many callers: see the [module](self::super). Its methods can be
/// called in any order; [`pipelined`](Self::pipelined) or [`tagged`](Self::tagged) comes last.
#[must_use = "a client connects when `pipelined` or `tagged` is called"]
pub struct Client<P = Unprepared, L = Identity, G = One, H = NoPushes> {
    /// An invalid remote is reported by the last method.
    remotes: Vec<Result<Remote>>,
    options: ClientOptions,
    prepare: P,
    layer: L,
    gather: G,
    pushes: H,
}

impl Client {
    /// A client without a remote.
    #[allow(clippy::new_without_default)] // it is the beginning of a chain
    pub fn new() -> Self {
        let options = ClientOptions {
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
    /// Adds a remote to connect to: a [`Remote`], or a string. Several are alternatives: after a
    /// failure the next one is tried.
    pub fn connect<R>(mut self, to: R) -> Self
    where
        R: TryInto<Remote, Error: Into<Error>>,
    {
        self.remotes.push(to.try_into().map_err(Into::into));
        self
    }

    /// How long an attempt to connect may take in total: the look-up of the name, the connection,
    /// its TLS handshake, and [`prepare`](Self::prepare). 10 s by default.
    pub fn connect_within(mut self, patience: Duration) -> Self {
        self.options.connect_within = patience;
        self
    }

    /// How long it waits between two attempts; between 100 ms and 30 s by default.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.options.backoff = backoff;
        self
    }

    /// How many calls may be queued or sent at once, at least 1; 64 by default. Further callers
    /// wait in `poll_ready`.
    ///
    /// With 1, each call has the connection to itself until its answer has arrived.
    pub fn in_flight(mut self, calls: usize) -> Self {
        self.options.in_flight = calls.max(1);
        self
    }

    /// How long a call may take in total: the wait for a slot, the time in the queue, the write and
    /// the answer. 30 s by default.
    ///
    /// A call that was sent and has timed out keeps its slot until its answer has arrived, or until
    /// the connection is replaced.
    pub fn call_within(mut self, patience: Duration) -> Self {
        self.options.call_within = patience;
        self
    }

    /// The connection is replaced when a sent call waits and no answer has arrived for this long;
    /// 60 s by default. It is also replaced once every slot is held by a call that has timed out,
    /// so that a stuck server does not block all callers.
    pub fn stalled_after(mut self, patience: Duration) -> Self {
        self.options.stalled_after = patience;
        self
    }

    /// When there has been no connection for this long, calls fail at once with
    /// [`Unavailable`](super::ClientError::Unavailable) until there is one again. By default they
    /// wait until they time out.
    pub fn fail_fast_after(mut self, patience: Duration) -> Self {
        self.options.fail_fast_after = Some(patience);
        self
    }

    /// The maximum age of a connection, reduced at random by up to a tenth. Then the connection is
    /// replaced without failing a call: calls that were sent are answered first, and queued ones go
    /// to the new connection. At least 1 s; unlimited by default.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.options.max_age = Some(age.max(LEAST_AGE));
        self
    }

    /// Adds a layer around each connection. The layers for a server's connections fit (a
    /// [`LogLayer`](crate::LogLayer) logs a line for each). The first one added sees a connection
    /// first.
    pub fn layer<N>(self, layer: N) -> Client<P, Stack<N, L>, G, H> {
        let Self { remotes, options, prepare, layer: others, gather, pushes } = self;
        Client { remotes, options, prepare, layer: Stack::new(layer, others), gather, pushes }
    }

    /// Sets a function that prepares each new connection before calls use it: a greeting, a login,
    /// STARTTLS. It takes a session and returns one with the same codec, which the calls then use.
    /// The deadline of [`connect_within`](Self::connect_within) applies. Its error fails the
    /// attempt; see [`fatal`](super::fatal) for errors after which further attempts are pointless.
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

    /// Does the same with a state, of which the function receives a clone: an `async` closure that
    /// captures it would move it into the first connection's future.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use ropewalk::client::Client;
    /// use ropewalk::{Lines, Session};
    ///
    /// let password: Arc<str> = "secret".into();
    /// # let _ =
    /// Client::new().connect("tcp:store.example.org:7000").prepare_with(password, async |mut s: Session<Lines>, password| {
    ///     s.feed(&*password)?;
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

    /// Sets that answers consist of several frames: the function classifies each frame, and an
    /// answer is the `Vec` of its frames, up to [`Part::Last`]. See
    /// [`max_answer`](Client::max_answer) for its limits, and [`on_push`](Self::on_push) for frames
    /// that belong to no answer. For [`pipelined`](Self::pipelined) only.
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
        Client {
            remotes,
            options,
            prepare,
            layer,
            gather: Many(Arc::new(part), MaxAnswer::default()),
            pushes,
        }
    }

    /// For answers of one frame each: sets a function that returns `true` for frames that belong to
    /// no answer. They go to [`on_push`](Self::on_push). For [`pipelined`](Self::pipelined) only;
    /// for answers of several frames use [`answers`](Self::answers).
    ///
    /// ```
    /// use ropewalk::Bytes;
    /// use ropewalk::client::Client;
    ///
    /// # let _ =
    /// Client::new()
    ///     .connect("tcp:news.example.org:7000")
    ///     .pushes(|line: &Bytes| line.starts_with(b">"))
    ///     .on_push(|line: Bytes| println!("{line:?}"));
    /// ```
    pub fn pushes<Item, F>(self, is_push: F) -> Client<P, L, OneOrPush<F>, H>
    where
        F: Fn(&Item) -> bool + Send + Sync + 'static,
    {
        let Self { remotes, options, prepare, layer, pushes, .. } = self;
        Client { remotes, options, prepare, layer, gather: OneOrPush(Arc::new(is_push)), pushes }
    }

    /// Sets a function that takes frames that belong to no answer. The connection's task calls it
    /// in the order of the frames; it must not block, because no call is answered meanwhile. It
    /// must deal with frames that it can't pass on (to a full channel, for example) itself. By
    /// default such frames are dropped.
    ///
    /// ```
    /// use ropewalk::client::Client;
    /// use ropewalk::{Bytes, Lines};
    ///
    /// let (sender, _pushes) = tokio::sync::mpsc::channel(64);
    /// # let _ =
    /// Client::new()
    ///     .connect("tcp:news.example.org:7000")
    ///     .pushes(|line: &Bytes| line.starts_with(b">"))
    ///     .on_push(move |line: Bytes| drop(sender.try_send(line)));
    /// ```
    pub fn on_push<Item, F>(self, f: F) -> Client<P, L, G, OnPush<F>>
    where
        F: Fn(Item) + Send + Sync + 'static,
    {
        let Self { remotes, options, prepare, layer, gather, .. } = self;
        Client { remotes, options, prepare, layer, gather, pushes: OnPush(Arc::new(f)) }
    }

    /// Makes the client, which connects at once in a task of its own. Answers are matched by their
    /// order: the n-th answer belongs to the n-th call. The codec is cloned for each connection.
    /// `Req` is the type of requests, which the codec encodes.
    ///
    /// # Errors
    ///
    /// If a string is not a valid remote, if there is no remote, if a certificate can't be read, or
    /// outside of a tokio runtime. An unreachable server does not cause an error here: the client
    /// tries again.
    pub fn pipelined<Req, C>(self, codec: C) -> Result<(Pipelined<Req, G::Answer>, ClientHandle)>
    where
        Req: Send + 'static,
        C: Decoder<Item: Send + 'static, Error: Into<BoxError>>
            + Encoder<Req, Error: Into<BoxError>>,
        C: Clone + Send + 'static,
        P: Prepare<C>,
        G: Gathers<C::Item>,
        H: TakePush<C::Item>,
        L: Layer<ClientLeaf>,
        L::Service: Service<Connection, Response = (), Error: Into<BoxError>, Future: Send>
            + Send
            + 'static,
    {
        self.start(codec, Fifo::default)
    }

    fn start<Req, C, M>(
        self,
        codec: C,
        matching: impl Fn() -> M + Send + 'static,
    ) -> Result<(Pipelined<Req, G::Answer>, ClientHandle)>
    where
        Req: Send + 'static,
        C: Decoder<Item: Send + 'static, Error: Into<BoxError>>
            + Encoder<Req, Error: Into<BoxError>>,
        C: Clone + Send + 'static,
        M: Match<Req, C::Item>,
        P: Prepare<C>,
        G: Gathers<C::Item>,
        H: TakePush<C::Item>,
        L: Layer<ClientLeaf>,
        L::Service: Service<Connection, Response = (), Error: Into<BoxError>, Future: Send>
            + Send
            + 'static,
    {
        let Self { remotes, options, prepare, layer, gather, pushes } = self;
        let remotes = remotes.into_iter().collect::<Result<Vec<_>>>()?;
        if remotes.is_empty() {
            return Err(Error::other(
                "the client has no remote to connect to: add one with Client::connect",
            ));
        }
        #[cfg(feature = "rustls")]
        remotes.iter().try_for_each(Remote::load)?;
        let runtime = runtime::Handle::try_current()?;
        let shared = ClientShared::new(options.in_flight, options.call_within);
        let service = Pipelined::new(Arc::clone(&shared));
        let handle = ClientHandle::new(Arc::clone(&shared));
        let leaf =
            Leaf { shared: Arc::clone(&shared), options, prepare, codec, matching, gather, pushes };
        let around = layer.layer(ClientLeaf::new(leaf));
        let _entered = runtime.enter();
        runtime.spawn(Task::new(shared, options).run(remotes, around));
        Ok((service, handle))
    }
}

impl<P, L, F, H> Client<P, L, Many<F>, H> {
    /// The most frames and bytes of one answer; 65 536 and 16 MiB by default. If an answer exceeds
    /// them, the connection is replaced, and the sent calls fail with
    /// [`MayHaveArrived`](super::ClientError::MayHaveArrived).
    pub fn max_answer(mut self, frames: usize, bytes: u64) -> Self {
        self.gather.1 = MaxAnswer { frames, bytes };
        self
    }
}

impl<P, L, H> Client<P, L, One, H> {
    /// Does the same as [`pipelined`](Self::pipelined) for a protocol whose answers arrive in any
    /// order, matched by the [`Tag`] of each. The tag is cloned for each connection.
    ///
    /// # Errors
    ///
    /// As for [`pipelined`](Self::pipelined).
    pub fn tagged<Req, C, T>(
        self,
        codec: C,
        tag: T,
    ) -> Result<(Pipelined<Req, C::Item>, ClientHandle)>
    where
        Req: Send + 'static,
        C: Decoder<Item: Send + 'static, Error: Into<BoxError>>
            + Encoder<Req, Error: Into<BoxError>>,
        C: Clone + Send + 'static,
        T: Tag<Req, C::Item, Id: Send + 'static> + Clone + Send + 'static,
        P: Prepare<C>,
        H: TakePush<C::Item>,
        L: Layer<ClientLeaf>,
        L::Service: Service<Connection, Response = (), Error: Into<BoxError>, Future: Send>
            + Send
            + 'static,
    {
        self.start(codec, move || ByTag::new(tag.clone()))
    }
}

impl<P, L, G, H> fmt::Debug for Client<P, L, G, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("remotes", &self.remotes)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
