//! Servers for every TCP protocol that is not HTTP: codecs find the frames, tower services answer them.
//!
//! ```text
//! bytes in                                                                     bytes out
//!    │                                                                             ▲
//! endpoint ─► listener ─► accept loop ─► connection layers ─► session ─► dispatch ─► frame layers ─► service of frames
//! ```
//!
//! A [`Server`] takes a tower service of [`Connection`]s and calls it once for each. Two *leaves* make one out of what you
//! write:
//!
//! * [`framed`] (and [`per_connection`]), where every frame out answers a frame in: a codec and a `Service<Frame>`, often
//!   made by [`reply_fn`] or [`service_fn`]. It answers with a frame, an `Option` of one, or a [`Reply`].
//! * [`session`](fn@session) (and [`session_with`]), where the server speaks first, pushes, switches modes or keeps state: a codec and
//!   an async function that holds a [`Session`].
//!
//! ```no_run
//! use ropewalk::{ConnectionLimitLayer, Lines, LogLayer, Result, Server, Session, session};
//!
//! async fn greeter(mut s: Session<Lines>) -> Result {
//!     s.reply("Who is there?")?;
//!     while let Some(name) = s.next().await? {
//!         s.reply([b"Hello, ", &name[..]].concat())?;
//!     }
//!     Ok(())
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result {
//!     Server::new()
//!         .listen("tcp:127.0.0.1:8007")
//!         .layer(LogLayer::new())
//!         .layer(ConnectionLimitLayer::new(100).refuse_with("Too many connections, try later\r\n"))
//!         .signals()
//!         .serve(session(Lines::any(), greeter))
//!         .await
//! }
//! ```
//!
//! # What is where
//!
//! | for | see |
//! |---|---|
//! | codecs | [`Lines`], [`LineRaw`], [`Netstring`], [`LengthPrefixed`], [`Fixed`], [`RawBytes`], [`CodecExt`] for typed frames, [`Framing`] for lent ones; [`custom`] for one of your own; or any [`Decoder`] and [`Encoder`] of `tokio_util` |
//! | layers around connections | [`ConnectionLimitLayer`], [`PeerLimitLayer`], [`ReadDeadlineLayer`], [`LogLayer`], [`StateLayer`] |
//! | layers around frames | [`CallDeadlineLayer`], [`CallLimitLayer`], [`FrameRateLayer`], [`CallLatencyLayer`], [`FrameLogLayer`], [`StateLayer`], and those of tower |
//! | where to listen | [`Endpoint`], and [`Listener`] for a transport of your own |
//! | TLS (feature `tls`) | `TlsConfig`, `Endpoint::tls`, `Session::upgrade_tls`; what was settled: [`TlsInfo`] by [`Connection::tls`] |
//! | a running server | [`Serve`] to await, [`Handle`] to ask, drain, restart and stop it, [`Restart`] for how, [`Lifecycle`] for what opens and closes with it |
//! | proxies | [`Endpoint::proxied`], [`Peer::proxied`]; [`proxy`] for the PROXY headers themselves |
//! | errors | [`Error`], [`SessionError`], [`CodecError`], [`Server`]s that can't start: [`BindError`], [`EndpointError`] |
//! | logs | [`LogLayer`] and [`FrameLogLayer`] for the lines, [`BackgroundLog`] to write them without blocking |
//! | tests | [`memory::endpoint`]: a whole server without a socket; `testing::Simulation`: one under faults |
//!
//! # Features
//!
//! All are off by default. `tls`: encrypted endpoints and STARTTLS, by rustls. `cli`: the module `cli`, with
//! `--listen ENDPOINT`, `--workers N`, `--log LEVEL` and `--idle SECONDS` for a clap command line. `json` and `postcard`:
//! frames of serde types on any codec. `systemd`: the endpoints `systemd:NAME` and `fd:3`, and `Server::sd_notify`. `laws`:
//! checks for codecs of your own. `testing`: whole servers under simulated faults.
#![forbid(unsafe_code)]
// docs.rs builds with nightly, and shows at each item the feature that it needs.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "cli")]
pub mod cli;
mod dispatch;
mod endpoint;
mod error;
mod leaf;
mod listener;
pub mod memory;
mod reply;
mod server;
mod session;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "tls")]
mod tls;
mod wire;

// What stands in the signatures of services and codecs: so this crate and tokio are enough to depend on.
pub use bytes::{Bytes, BytesMut};
pub use ipnet::IpNet;
pub use tokio_util::codec::{Decoder, Encoder};

pub use ropewalk_codecs::*;
pub use ropewalk_middleware::*;

pub use dispatch::{AsReady, Concurrent, EndConnection, InOrder, OnError, Order};
pub use endpoint::{BindError, Endpoint, EndpointError};
pub use error::{BoxError, Error, Result, SessionError};
pub use leaf::{
    Cloned, FrameService, Framed, FramedFuture, MakeFrameService, NoState, PerPeer, ReplyFn, ServiceFn, SessionFuture,
    SessionLeaf, WithState, framed, per_connection, reply_fn, service_fn, session, session_with,
};
pub use listener::{HandOver, Listener, PreambleCounts, PreambleDrop};
pub use reply::{IntoReply, Reply};
pub use server::{
    ConnectionService, Counts, DrainReport, Handle, Lifecycle, MemoryUse, Restart, RestartError, Serve, Server,
};
pub use session::{Drive, Next, RawChunks, Session};
#[cfg(feature = "tls")]
pub use tls::{TlsConfig, TlsError};

/// What [`TlsConfig`] is made of, for one made by hand.
#[cfg(feature = "tls")]
pub use rustls;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
