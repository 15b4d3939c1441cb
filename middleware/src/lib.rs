//! The connection that every layer sees, and the tower layers for connections and frames.
//!
//! A server takes a `Service<Connection, Response = ()>` and calls it once for each connection;
//! frames are answered by a `Service<Frame>`. Layers wrap both. Each layer here fits one of the two
//! levels only, so that a layer for frames doesn't end up around a connection by accident:
//!
//! * around connections: [`ConnectionLimitLayer`], [`PeerLimitLayer`], [`AccessLayer`],
//!   [`AcceptRateLayer`], [`KeyLimitLayer`], [`BanLayer`], [`LifetimeLayer`], [`BandwidthLayer`],
//!   [`LoginLayer`], [`OverloadLayer`], [`ReadDeadlineLayer`], [`LogLayer`], [`TapLayer`];
//! * around frames: [`CallDeadlineLayer`], [`CallLimitLayer`], [`CallRefuseLayer`],
//!   [`FrameRateLayer`], [`KeyRateLayer`], [`KeyRateRefuseLayer`], [`AnswerRateLayer`],
//!   [`CallLatencyLayer`], [`FrameLogLayer`];
//! * around either: [`StateLayer`].
//!
//! The chapter on layers of ropewalk's book (`docs/src/layers.md` in the repository) has the table:
//! what each does, and what it costs.
//!
//! [`Connection`] is one type for every kind of transport. Its [`Closing`] handle has the reason
//! why it ended, its [`Stats`] the counted bytes and frames; both may be kept after the connection
//! has been passed on. [`Escaped`] makes data of a peer safe for a log, and [`BackgroundLog`]
//! writes a log without blocking. [`Reply`] is the answer of a service of frames, and [`IntoReply`]
//! the bound of a layer that changes answers; [`Error`] is made from any error. [`proxy`] reads and
//! writes PROXY headers, and [`Peer::via`] makes a peer from a header.
//!
//! # Example
//!
//! Layers compose with tower's `ServiceBuilder`; the first one added sees the connection first.
//!
//! ```
//! use std::io;
//! use std::sync::Arc;
//!
//! use ropewalk_middleware::{
//!     Connection, ConnectionLimitLayer, LogLayer, Peer, StateLayer,
//! };
//! use tokio::io::AsyncWriteExt;
//! use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
//!
//! type Quoted = (Arc<str>, Connection);
//!
//! async fn quote((quote, mut connection): Quoted) -> io::Result<()> {
//!     connection.write_all(quote.as_bytes()).await?;
//!     connection.close().await;
//!     Ok(())
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> io::Result<()> {
//! let limit = ConnectionLimitLayer::new(100)
//!     .refuse_with("Too many connections, try later\r\n");
//! let mut service = ServiceBuilder::new()
//!     .layer(LogLayer::new())
//!     .layer(limit)
//!     .layer(StateLayer::new(Arc::from("Brevity is the soul of wit.\r\n")))
//!     .service(service_fn(quote));
//!
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! # let _peer = tokio::net::TcpStream::connect(listener.local_addr()?).await?;
//! // One round of an accept loop: ready, accept, call, spawn.
//! let ready = service.ready().await?;
//! let (stream, addr) = listener.accept().await?;
//! tokio::spawn(ready.call(Connection::new(stream, Peer::new(addr))));
//! # Ok(())
//! # }
//! ```
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

pub mod accept_rate;
pub mod access;
pub mod ban;
pub mod bandwidth;
mod bounded;
pub mod call;
pub mod connection;
pub mod crowd;
mod error;
mod escape;
#[doc(hidden)]
pub mod event;
mod frame;
#[cfg(feature = "x509")]
pub mod identity;
pub mod key;
pub mod key_limit;
pub mod key_rate;
pub mod lifetime;
pub mod limit;
pub mod log;
pub mod login;
pub mod overload;
mod per_connection;
#[doc(hidden)]
pub mod percent;
pub mod proxy;
pub mod rate;
mod read_deadline;
mod reply;
mod sample;
mod state;
pub mod tap;
#[cfg(feature = "testing")]
pub mod testing;

pub use accept_rate::{AcceptRate, AcceptRateLayer};
pub use access::{Access, AccessLayer, AccessRules};
pub use ban::{Ban, BanLayer, BanRules};
pub use bandwidth::{Bandwidth, BandwidthLayer};
pub use call::{
    CallDeadline, CallDeadlineLayer, CallLatency, CallLatencyLayer, CallLimit, CallLimitLayer,
    CallPanicked, CallRefuse, CallRefuseLayer, CallRefused, CallTimedOut, CallTimer, CatchPanic,
    CatchPanicLayer, Histogram,
};
pub use connection::{
    Addr, CloseReason, Closing, Connection, ConnectionInfo, ConnectionState, Credentials, Io,
    LingeringClose, Peer, ReadDeadlines, Stats, Stream, TlsInfo, TlsVersion,
};
pub use crowd::MakeRoom;
pub use error::{BoxError, Error, Result, SessionError};
pub use escape::{ESCAPED_MAX, Escaped};
pub use frame::Frame;
#[cfg(feature = "x509")]
pub use identity::{Identity, IdentityRule};
pub use key_limit::{KeyLimit, KeyLimitLayer};
pub use key_rate::{
    AnswerRate, AnswerRateLayer, KeyRate, KeyRateLayer, KeyRateRefuse, KeyRateRefuseLayer,
    RateExceeded,
};
pub use lifetime::{Lifetime, LifetimeLayer};
pub use limit::{ConnectionLimit, ConnectionLimitLayer, PeerLimit, PeerLimitLayer, Refuse};
pub use log::{AsBytes, AsDebug, BackgroundLog, FrameLog, FrameLogLayer, Log, LogLayer};
pub use login::{Login, LoginLayer};
pub use overload::{Overload, OverloadLayer};
pub use per_connection::{PerConnection, PerConnectionFuture, PerConnectionLayer};
pub use rate::{FrameRate, FrameRateLayer};
pub use read_deadline::{ReadDeadline, ReadDeadlineLayer};
#[doc(hidden)]
pub use reply::Body;
pub use reply::{IntoReply, Reply, ReplyView};
pub use state::{State, StateLayer};
pub use tap::{Tap, TapLayer};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
