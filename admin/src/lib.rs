//! An HTTP endpoint beside a ropewalk server: its health, its metrics, its connections, a page to
//! watch them, and requests that drain the server, end one connection, set a limit or reload.
//!
//! ```no_run
//! use ropewalk::{Bytes, Lines, Result, Server, framed, reply_fn};
//! use ropewalk_admin::Admin;
//!
//! #[tokio::main]
//! async fn main() -> Result {
//!     let serve = Server::new()
//!         .listen("tcp:0.0.0.0:8007")
//!         .signals()
//!         .serve(framed(Lines::any(), reply_fn(|line: Bytes| line)));
//!     Admin::new()
//!         .listen("tcp:127.0.0.1:9901")
//!         .token_file("/etc/example/admin.token")
//!         .run(serve)
//!         .await
//! }
//! ```
//!
//! The endpoint is a server of its own, with its own limits: it answers while the other one is
//! full, and until the last connection of a drain has ended. A hot restart of the other one hands
//! its sockets over as well.
//!
//! | request | answer | needs the token |
//! |---|---|---|
//! | `GET /` | the page | no: it has no data, and asks for the token |
//! | `GET /healthz` | 200 while the runtime runs | no |
//! | `GET /readyz` | 200, or 503 from the beginning of a drain | no |
//! | `GET /metrics` | the text of [`Admin::metrics`] | no |
//! | `GET /status` | JSON: counts, endpoints, rates, latency, limits | yes, except on a Unix socket |
//! | `GET /connections` | JSON: open connections, at most 100 if `limit` doesn't say otherwise | yes, except on a Unix socket |
//! | `POST /drain` | drains the server | yes |
//! | `POST /reload` | reloads the server, and the token | yes |
//! | `POST /limits/NAME` | sets a limit | yes |
//! | `POST /connections/ID/drain`, `/abort` | ends a connection | yes |
//! | `POST /tap/start`, `/tap/stop`, `/connections/ID/tap` | records connections ([`Admin::tap`]) | yes |
//!
//! "Watching a live server" in the book says more.
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod app;
mod builder;
mod exposure;
mod guard;
mod history;
mod http;
mod list;
mod page;
mod routes;
mod status;
mod tap;
mod token;

pub use self::builder::Admin;

/// The snippet of the README, as a documentation test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
