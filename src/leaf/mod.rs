//! The two leaves, `framed` and `session`: they make a service of connections from a codec and a
//! user's code.

use ropewalk_middleware::{CloseReason, Result};

use crate::wire::Wire;

mod framed;
mod functions;
mod limits;
mod opened;
mod route;
mod service;
mod session;

pub use self::framed::{Framed, FramedFuture, framed, per_connection};
pub use self::functions::{ReplyFn, ServiceFn, reply_fn, service_fn};
pub use self::opened::{Cloned, LayerWith, MakeFrameService, Opened, PerPeer};
pub use self::route::{NoRules, Route, RouteFuture, Rules, When, WhenReady, route};
pub use self::service::FrameService;
pub use self::session::{NoState, SessionFuture, SessionLeaf, WithState, session, session_with};
pub use crate::dispatch::{
    AsReady, Concurrent, EndConnection, Goodbye, InOrder, NoGoodbye, OnError, Order,
};
#[cfg(feature = "rustls")]
pub use crate::session::UpgradeTls;
pub use crate::session::{Answer, Drive, During, Next, RawChunks, Session};
#[doc(hidden)]
pub use ropewalk_middleware::Body;
pub use ropewalk_middleware::{IntoReply, Reply, ReplyView, SessionError};

/// Ends a connection whose frames are done, and records the reason. Answers that were queued are
/// still written, also after an error; but not to a peer that has stalled, and not when the error
/// left a frame out, because the rest would look complete.
async fn end(mut wire: Wire, result: Result) -> Result {
    let closing = wire.closing().clone();
    let note = |result: &Result| {
        if let Err(error) = result {
            closing.set_reason(error.close_reason().unwrap_or(CloseReason::ServiceError));
        }
    };
    note(&result);
    // The wire is asked, because the error may come from another connection.
    if result.is_err() && (wire.has_stalled() || wire.is_over_limit()) {
        wire.abort();
        return result;
    }
    let finished = wire.finish().await;
    if finished.is_err() {
        note(&finished);
        wire.abort();
    }
    result.and(finished)
}
