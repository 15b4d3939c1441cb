//! Servers that speak their own protocol over TCP, TLS and Unix sockets: codecs find the frames,
//! tower services answer them.
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
//! A [`Server`] takes a tower service of [`Connection`]s and calls it once for each connection. Two
//! *leaves* make such a service from a codec and your code:
//!
//! * [`framed`] (and [`per_connection`]), for protocols in which each frame is a request that has
//!   an answer: a codec and a `Service<Frame>`, often made by [`reply_fn`] or [`service_fn`]. The
//!   service answers with a frame, an `Option` of one, or a [`Reply`].
//! * [`session`](fn@session) (and [`session_with`]), for protocols in which the server speaks
//!   first, pushes, switches modes or keeps state: a codec and an async function that holds a
//!   [`Session`].
//!
//! ```no_run
//! use ropewalk::{
//!     ConnectionLimitLayer, Lines, LogLayer, Result, Server, Session, session,
//! };
//!
//! async fn greeter(mut s: Session<Lines>) -> Result {
//!     s.feed("What is your name?")?;
//!     while let Some(name) = s.next().await? {
//!         s.feed([b"Hello, ", &name[..]].concat())?;
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
//! The first server needs what is at the root. The modules hold everything, by subject:
//!
//! | module | subject |
//! |---|---|
//! | [`codec`] | [`Lines`] and the other codecs, [`CodecExt`] for typed frames, [`custom`](codec::custom) for your own; or any [`Decoder`](codec::Decoder) and [`Encoder`](codec::Encoder) of `tokio_util` |
//! | [`layer`] | the layers around connections and around frames, and the services they make; those of tower fit too |
//! | [`leaf`] | [`framed`] and [`session`](fn@session), and all that a service or a session function handles: [`Session`], [`Reply`], [`SessionError`] |
//! | [`connection`] | a [`Connection`] and its [`Peer`], also seen from other tasks ([`ConnectionInfo`]); why it closed ([`CloseReason`]) |
//! | [`outbox`] | pushing to connections from outside: [`Outbox`], [`Room`], [`SlowConsumer`] |
//! | [`endpoint`] | where a server listens: [`Endpoint`], and [`Listener`](endpoint::Listener) for a transport of your own |
//! | [`server`] | the [`Server`], its [`Handle`] to query, drain, restart and stop it, [`Lifecycle`](server::Lifecycle) for resources that open and close with it |
//! | [`client`] | the other end: [`connect`] to a [`Remote`], a [`Client`](client::Client) for many callers |
//! | `tls` (feature `tls`, or one of those below) | `TlsConfig`, and the errors of certificates; `Session::upgrade_tls` |
//! | [`proxy`] | PROXY headers themselves; see [`Endpoint::proxied`] and [`Peer::proxied`] |
//! | [`log`] | [`BackgroundLog`], which writes lines without blocking; the lines are those of [`LogLayer`] and [`FrameLogLayer`] |
//! | `metrics` (feature `metrics`) | the server's counts for Prometheus and others |
//! | [`memory`] | a whole server without a socket, in tests |
//! | `testing` (feature `testing`) | a whole server under faults, and checks for layers |
//! | `laws` (feature `laws`) | checks for codecs |
//! | `cli` (feature `cli`) | `--listen` and the other options of a command line |
//!
//! The book, in `docs/src` of the repository, explains all of this from the beginning.
//!
//! # Features
//!
//! All are off by default.
//!
//! - `anyhow`: `?` from [`Error`] to `anyhow::Error`.
//! - `tls`: encrypted endpoints and STARTTLS, by rustls with ring.
//! - `ring`, `aws-lc`, `rustls`: the same with the cryptography of ring, of AWS-LC, or of your own
//!   (`TlsConfig::provider`). AWS-LC is used if both are there.
//! - `cli`: the module `cli`, with `--listen ENDPOINT`, `--workers N`, `--log-level LEVEL` and
//!   `--idle SECONDS` for a clap command line.
//! - `json`, `postcard`: frames of serde types with any codec.
//! - `systemd`: the endpoints `systemd:NAME` and `fd:3`, and `Server::sd_notify`.
//! - `laws`: checks for your own codecs.
//! - `testing`: whole servers under simulated faults, and checks for layers.
//! - `metrics`: the server's counts for the recorder of the `metrics` crate.
//! - `x509`: the names in the certificates of peers, and access by them.
//! - `tower`: `NotSent` for tower's `Retry`, and `Load`, of clients.
#![forbid(unsafe_code)]
// docs.rs builds with nightly, and shows at each item the feature that it needs.
#![cfg_attr(docsrs, feature(doc_cfg))]

// A byte comes from a `listener` of an `endpoint`, is accepted by `server::accept`, and goes through
// a `leaf`, the `wire`, a codec, and `dispatch` or a `session`; the answer goes back through the
// wire. "The way of a byte" in ARCHITECTURE.md names each file and function, and those that can be
// left out at the first reading.

#[cfg(feature = "cli")]
pub mod cli;
pub mod client;
mod dispatch;
pub mod endpoint;
pub mod leaf;
mod listener;
pub mod memory;
#[cfg(feature = "metrics")]
pub mod metrics;
pub mod outbox;
pub mod server;
mod session;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "rustls")]
pub mod tls;
mod wire;

/// Codecs, the combinators for typed frames, and the tools for codecs of your own.
pub mod codec {
    #[cfg(feature = "json")]
    pub use ropewalk_codecs::Json;
    #[cfg(feature = "postcard")]
    pub use ropewalk_codecs::Postcard;
    pub use ropewalk_codecs::{
        CodecError, CodecExt, ErrorKind, Fixed, Framing, LengthPrefixed, LineOrRaw, LineRaw, Lines,
        Map, Netstring, Parsed, RawBytes, TryMap, Utf8, custom,
    };
    pub use tokio_util::codec::{Decoder, Encoder};
}

/// A connection as layers and services see it: its peer, its counts, and the reason why it closed.
pub mod connection {
    pub use ropewalk_middleware::connection::{
        Addr, CloseReason, Closing, Connection, ConnectionInfo, ConnectionState, Credentials, Io,
        LINGER, LINGER_BYTES, LingeringClose, Peer, Proxied, ReadDeadlines, Stats, Stream, TlsInfo,
        TlsVersion,
    };
    #[cfg(feature = "x509")]
    pub use ropewalk_middleware::identity::{
        Identity, IdentityError, IdentityRule, IdentityRuleError,
    };
}

/// The layers around connections and around frames, and the services that they make.
pub mod layer {
    pub use ipnet::IpNet;
    pub use ropewalk_middleware::{
        AcceptRate, AcceptRateLayer, Access, AccessLayer, AccessRules, AnswerRate, AnswerRateLayer,
        Ban, BanLayer, BanRules, Bandwidth, BandwidthLayer, BoxError, CallDeadline,
        CallDeadlineLayer, CallLatency, CallLatencyLayer, CallLimit, CallLimitLayer, CallPanicked,
        CallRefuse, CallRefuseLayer, CallRefused, CallTimedOut, CallTimer, CatchPanic,
        CatchPanicLayer, ConnectionLimit, ConnectionLimitLayer, Frame, FrameLog, FrameLogLayer,
        FrameRate, FrameRateLayer, Histogram, KeyLimit, KeyLimitLayer, KeyRate, KeyRateLayer,
        KeyRateRefuse, KeyRateRefuseLayer, Lifetime, LifetimeLayer, Log, LogLayer, Login,
        LoginLayer, MakeRoom, Overload, OverloadLayer, PeerLimit, PeerLimitLayer, PerConnection,
        PerConnectionFuture, PerConnectionLayer, RateExceeded, ReadDeadline, ReadDeadlineLayer,
        Refuse, State, StateLayer, Tap, TapLayer,
    };
    pub use ropewalk_middleware::{
        accept_rate, access, ban, bandwidth, call, crowd, key, key_limit, key_rate, lifetime,
        limit, login, overload, rate, tap,
    };
}

/// Logs written in the background, and how frames and untrusted text are shown in them.
pub mod log {
    pub use ropewalk_middleware::log::LineWriter;
    pub use ropewalk_middleware::{AsBytes, AsDebug, BackgroundLog, ESCAPED_MAX, Escaped};
}

#[cfg(feature = "laws")]
pub use ropewalk_laws as laws;
pub use ropewalk_middleware::proxy;

// Types in the signatures of services, so that a server needs no dependency but this crate and
// tokio.
pub use bytes::{Bytes, BytesMut};
pub use bytestring::ByteString;

// The items that a first server uses are at the root. The modules have all items, these included.
pub use client::{Remote, connect};
pub use codec::{CodecExt, LengthPrefixed, LineRaw, Lines, Netstring, RawBytes};
pub use connection::{Addr, CloseReason, Connection, ConnectionInfo, Peer};
pub use endpoint::Endpoint;
pub use layer::{
    CallDeadlineLayer, CallLatencyLayer, CallLimitLayer, ConnectionLimitLayer, FrameLogLayer,
    FrameRateLayer, LogLayer, PeerLimitLayer, ReadDeadlineLayer, StateLayer,
};
pub use leaf::{
    Opened, Reply, Session, SessionError, framed, per_connection, reply_fn, service_fn, session,
    session_with,
};
pub use log::BackgroundLog;
pub use outbox::{Outbox, Room, SlowConsumer};
pub use ropewalk_middleware::{Error, Result};
pub use server::{ConnectionService, Handle, Server};
#[cfg(feature = "rustls")]
pub use tls::TlsConfig;

/// The snippets of README and the book, as documentation tests. Chapters without snippets are
/// missing here; `tests/docs/` checks that.
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
