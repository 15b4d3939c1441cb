//! The two leaves: what turns frames into a service of connections.

use ropewalk_middleware::CloseReason;

use crate::error::{Result, SessionError};
use crate::wire::Wire;

mod framed;
mod functions;
mod session;

pub use self::framed::{Cloned, Framed, FramedFuture, MakeFrameService, PerPeer, framed, per_connection};
pub use self::functions::{ReplyFn, ServiceFn, reply_fn, service_fn};
pub use self::session::{NoState, SessionFuture, SessionLeaf, WithState, session, session_with};

/// Ends a connection whose frames are done with, and leaves the reason behind. What was answered arrives, also before an
/// error; but a peer that has let its answers pile up to the limit is not waited for.
async fn end(wire: Wire, result: Result) -> Result {
    let closing = wire.closing().clone();
    let note = |result: &Result| {
        if let Err(error) = result {
            closing.set_reason(error.close_reason().unwrap_or(CloseReason::ServiceError));
        }
    };
    note(&result);
    let slow = |error: &SessionError| matches!(error, SessionError::WriteLimit { .. } | SessionError::WriteStalled);
    // A service's error may be that of another connection.
    let own = |error: &&crate::Error| error.close_reason() != Some(CloseReason::ServiceError);
    if result.as_ref().err().filter(own).and_then(|error| error.downcast_ref()).is_some_and(slow) {
        wire.abort();
        return result;
    }
    let finished = wire.finish().await;
    note(&finished);
    result.and(finished)
}
