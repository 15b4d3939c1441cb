//! The connection every layer sees, and the tower layers for connections and frames.
//!
//! A server takes a `Service<Connection, Response = ()>` and calls it once per connection; what answers frames is a
//! `Service<Frame>`. Layers stand around both. Each layer here fits one of the two levels only, so that one meant for
//! frames does not end up around a connection by accident:
//!
//! | layer | around | does |
//! |---|---|---|
//! | [`ConnectionLimitLayer`] | connections | caps how many are open at once: the others wait, or are told so |
//! | [`PeerLimitLayer`] | connections | caps how many one peer has |
//! | [`ReadDeadlineLayer`] | connections | how long a peer is waited for: its first frame, each frame, between two |
//! | [`LogLayer`] | connections | a span for each, a line at its start and one at its end, with the reason |
//! | [`CallDeadlineLayer`] | frames | how long a call may take |
//! | [`CallLimitLayer`] | frames | caps how many calls are under way, of all connections together: the others wait, or fail |
//! | [`FrameRateLayer`] | frames | how many frames, or bytes, a connection may send in a time |
//! | [`CallLatencyLayer`] | frames | a histogram of how long calls take |
//! | [`FrameLogLayer`] | frames | a line for each, and one for how its call ended |
//! | [`StateLayer`] | either | hands shared state to the service |
//!
//! [`Connection`] is one type for every kind of transport. Its [`Closing`] handle says why it ended, its [`Stats`] what
//! it counted; both may be kept when the connection has moved on. [`Escaped`] is how data of a peer gets into a log,
//! and [`BackgroundLog`] how a log is written without blocking anybody.
//! [`proxy`] reads and writes PROXY headers, and [`Peer::via`] makes a peer of one.
//!
//! # Example
//!
//! Layers compose with `tower`'s `ServiceBuilder`; the first sees the connection first.
//!
//! ```
//! use std::io;
//! use std::sync::Arc;
//!
//! use ropewalk_middleware::{Connection, ConnectionLimitLayer, LogLayer, Peer, StateLayer};
//! use tokio::io::AsyncWriteExt;
//! use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
//!
//! async fn quote((quote, mut connection): (Arc<str>, Connection)) -> io::Result<()> {
//!     connection.write_all(quote.as_bytes()).await?;
//!     connection.close().await;
//!     Ok(())
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> io::Result<()> {
//! let mut service = ServiceBuilder::new()
//!     .layer(LogLayer::new())
//!     .layer(ConnectionLimitLayer::new(100).refuse_with("Too many connections, try later\r\n"))
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
#![forbid(unsafe_code)]

pub mod call;
pub mod connection;
pub mod crowd;
mod escape;
#[doc(hidden)]
pub mod event;
mod frame;
pub mod limit;
pub mod log;
pub mod proxy;
pub mod rate;
mod read_deadline;
mod state;

pub use call::{
    CallDeadline, CallDeadlineLayer, CallLatency, CallLatencyLayer, CallLimit, CallLimitLayer, CallPanicked,
    CallRefuse, CallRefuseLayer, CallRefused, CallTimedOut, CallTimer, CatchPanic, CatchPanicLayer, Histogram,
};
pub use connection::{
    Addr, CloseReason, Closing, Connection, ConnectionInfo, Credentials, Io, LingeringClose, Peer, ReadDeadlines,
    Stats, Stream, TlsInfo, TlsVersion,
};
pub use crowd::MakeRoom;
pub use escape::{ESCAPED_MAX, Escaped};
pub use frame::Frame;
pub use limit::{ConnectionLimit, ConnectionLimitLayer, PeerLimit, PeerLimitLayer};
pub use log::{BackgroundLog, FrameLog, FrameLogLayer, Log, LogLayer};
pub use rate::{FrameRate, FrameRateLayer};
pub use read_deadline::{ReadDeadline, ReadDeadlineLayer};
pub use state::{State, StateLayer};

/// An error of any type, as tower's layers box it.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
