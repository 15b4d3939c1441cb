//! Servers that speak their own protocol over TCP, TLS and Unix sockets: codecs find the frames, tower services answer them.
//!
//! ```text
//!     listener ───► accept loop ───► connection layers ───► leaf
//!     TCP, Unix,    ready, accept,   limit, deadlines,        │
//!     TLS, memory   call, spawn      log, state               ▼
//!                                                  wire: buffers, deadlines
//!                                                  codec: bytes ◄─► frames
//!                                                             │
//!                            ┌────────────────────────────────┤
//!                            ▼                                ▼
//!                   framed: dispatch                  session: your async
//!                   ──► frame layers                  function, which holds
//!                   ──► your service                  the connection
//! ```
//!
//! A [`Server`] takes a tower service of [`Connection`]s and calls it once for each connection. Two *leaves* make such
//! a service from a codec and your code:
//!
//! * [`framed`] (and [`per_connection`]), for protocols in which each frame is a request that has an answer: a codec
//!   and a `Service<Frame>`, often made by [`reply_fn`] or [`service_fn`]. The service answers with a frame, an
//!   `Option` of one, or a [`Reply`].
//! * [`session`](fn@session) (and [`session_with`]), for protocols in which the server speaks first, pushes, switches
//!   modes or keeps state: a codec and an async function that holds a [`Session`].
//!
//! ```no_run
//! use ropewalk::{
//!     ConnectionLimitLayer, Lines, LogLayer, Result, Server, Session, session,
//! };
//!
//! async fn greeter(mut s: Session<Lines>) -> Result {
//!     s.reply("What is your name?")?;
//!     while let Some(name) = s.next().await? {
//!         s.reply([b"Hello, ", &name[..]].concat())?;
//!     }
//!     Ok(())
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result {
//!     let limit = ConnectionLimitLayer::new(100)
//!         .refuse_with("Too many connections, try later\r\n");
//!     Server::new()
//!         .listen("tcp:127.0.0.1:8007")
//!         .layer(LogLayer::new())
//!         .layer(limit)
//!         .signals()
//!         .serve(session(Lines::any(), greeter))
//!         .await
//! }
//! ```
//!
//! # Where to look
//!
//! | subject | items |
//! |---|---|
//! | codecs | [`Lines`], [`LineRaw`], [`Netstring`], [`LengthPrefixed`], [`Fixed`], [`RawBytes`]; [`CodecExt`] for typed frames, [`Framing`] for borrowed ones; [`custom`] for your own; or any [`Decoder`] and [`Encoder`] of `tokio_util` |
//! | layers around connections | [`ConnectionLimitLayer`], [`PeerLimitLayer`], [`AccessLayer`], [`AcceptRateLayer`], [`LifetimeLayer`], [`BandwidthLayer`], [`LoginLayer`], [`ReadDeadlineLayer`], [`LogLayer`], [`StateLayer`] |
//! | layers around frames | [`CallDeadlineLayer`], [`CallLimitLayer`], [`FrameRateLayer`], [`CallLatencyLayer`], [`CatchPanicLayer`], [`FrameLogLayer`], [`StateLayer`], and those of tower |
//! | pushing to connections from outside | [`Session::outbox`], [`Opened::outbox`], [`Room`], [`SlowConsumer`] |
//! | a connection, from other tasks | [`ConnectionInfo`], [`Handle::connections`] |
//! | listening | [`Endpoint`], and [`Listener`] for a transport of your own |
//! | the other end | [`connect`] to a [`Remote`], and [`Session::over`]; [`client`] for many callers; [`Dial`] for a transport of your own |
//! | TLS (feature `tls`) | `TlsConfig`, `Endpoint::tls`, `Session::upgrade_tls`; the result of a handshake: [`TlsInfo`] by [`Connection::tls`] |
//! | a running server | [`Serve`] to await, [`Handle`] to query, drain, restart and stop it, [`Restart`] for the options of a restart, [`Lifecycle`] for resources that open and close with it |
//! | proxies | [`Endpoint::proxied`], [`Peer::proxied`]; [`proxy`] for the PROXY headers themselves |
//! | errors | [`Error`], [`SessionError`], [`CodecError`]; from a server that can't start: [`BindError`], [`EndpointError`] |
//! | the end of a connection | [`CloseReason`], [`Closing`], [`Counts`] |
//! | logs | [`LogLayer`] and [`FrameLogLayer`] for the lines, [`BackgroundLog`] to write them without blocking |
//! | metrics (feature `metrics`) | `metrics::export`, for Prometheus and others |
//! | tests | [`memory::endpoint`]: a whole server without a socket; `testing::Simulation`: one under faults |
//!
//! The book, in `docs/src` of the repository, explains all of this from the beginning.
//!
//! # Features
//!
//! All are off by default.
//!
//! - `anyhow`: `?` from [`Error`] to `anyhow::Error`.
//! - `tls`: encrypted endpoints and STARTTLS, by rustls.
//! - `cli`: the module `cli`, with `--listen ENDPOINT`, `--workers N`, `--log-level LEVEL` and `--idle SECONDS` for a clap command
//!   line.
//! - `json`, `postcard`: frames of serde types with any codec.
//! - `systemd`: the endpoints `systemd:NAME` and `fd:3`, and `Server::sd_notify`.
//! - `laws`: checks for your own codecs.
//! - `testing`: whole servers under simulated faults, and checks for layers.
//! - `metrics`: the server's counts for the recorder of the `metrics` crate.
//! - `tower`: `NotSent` for tower's `Retry`, and `Load`, of clients.
#![forbid(unsafe_code)]
// docs.rs builds with nightly, and shows at each item the feature that it needs.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "cli")]
pub mod cli;
pub mod client;
mod dispatch;
mod endpoint;
mod leaf;
mod listener;
pub mod memory;
#[cfg(feature = "metrics")]
pub mod metrics;
mod outbox;
mod server;
mod session;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "tls")]
mod tls;
mod wire;

// Types in the signatures of services and codecs, so that a server needs no dependency but this crate and tokio.
pub use bytes::{Bytes, BytesMut};
pub use bytestring::ByteString;
pub use ipnet::IpNet;
pub use tokio_util::codec::{Decoder, Encoder};

pub use ropewalk_codecs::*;
pub use ropewalk_middleware::*;
// Also what the crates of layers use, which don't need this one.
pub use ropewalk_middleware::{BoxError, Error, IntoReply, Reply, Result, SessionError};

pub use client::connect;
pub use dispatch::{AsReady, Concurrent, EndConnection, Goodbye, InOrder, NoGoodbye, OnError, Order};
pub use endpoint::{BindError, ConnectError, Dial, Dialing, Endpoint, EndpointError, Remote};
pub use leaf::{
    Cloned, FrameService, Framed, FramedFuture, LayerWith, MakeFrameService, NoState, Opened, PerPeer, ReplyFn,
    ServiceFn, SessionFuture, SessionLeaf, WithState, framed, per_connection, reply_fn, service_fn, session,
    session_with,
};
pub use listener::{HandOver, Listener, PreambleCounts, PreambleDrop};
pub use outbox::{Capacity, Member, Outbox, PushError, Room, SlowConsumer};
pub use server::{
    ConnectionService, Counts, DrainReport, EndpointInfo, EndpointState, Handle, Lifecycle, MemoryUse, Reload,
    ReloadFn, Restart, RestartError, Serve, Server, reload_fn,
};
#[cfg(feature = "tls")]
pub use session::UpgradeTls;
pub use session::{Answer, Drive, Next, RawChunks, Session};
#[cfg(feature = "tls")]
pub use tls::{ClientTls, TlsConfig, TlsError};

/// For a [`TlsConfig`] made from a `rustls::ServerConfig` of your own.
#[cfg(feature = "tls")]
pub use rustls;

/// The snippets of README and the book, as documentation tests. Chapters without snippets are missing here;
/// `tests/docs/` checks that.
#[cfg(doctest)]
mod book {
    macro_rules! chapters {
        ($($name:ident: $path:literal,)*) => { $(#[doc = include_str!($path)] struct $name;)* };
    }

    chapters! {
        Readme: "../README.md",
        GettingStarted: "../docs/src/getting-started.md",
        Leaves: "../docs/src/leaves.md",
        State: "../docs/src/state.md",
        Codecs: "../docs/src/codecs.md",
        Layers: "../docs/src/layers.md",
        TlsAndProxy: "../docs/src/tls-and-proxy.md",
        Testing: "../docs/src/testing.md",
        Deployment: "../docs/src/deployment.md",
        ComingFromTwisted: "../docs/src/coming-from-twisted.md",
        ComingFromFramed: "../docs/src/coming-from-framed.md",
        ComingFromTokioTower: "../docs/src/coming-from-tokio-tower.md",
    }
}
