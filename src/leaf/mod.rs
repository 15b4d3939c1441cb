//! The two leaves: what turns frames into a service of connections.

mod framed;
mod functions;
mod session;

pub use self::framed::{Cloned, Framed, FramedFuture, MakeFrameService, PerPeer, framed, per_connection};
pub use self::functions::{ReplyFn, ServiceFn, reply_fn, service_fn};
pub use self::session::{NoState, SessionFuture, SessionLeaf, WithState, session, session_with};
