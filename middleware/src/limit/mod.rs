//! Caps on the connections that are open at once: of all, and of one peer.

mod future;
mod layer;
mod overflow;
mod peer;
mod peers;
mod place;
mod places;
mod refuse;
mod service;

pub use self::future::ResponseFuture;
pub use self::layer::ConnectionLimitLayer;
pub use self::overflow::{Farewell, MAX_REFUSAL_TIME, Overflow, RefuseBy, RefuseWith, Refuses, Wait};
pub use self::peer::{PeerLimit, PeerLimitFuture, PeerLimitLayer};
pub use self::peers::PeerPlace;
pub use self::place::{ConnectionPlace, Place, Unlimited};
pub use self::places::MAX_REFUSALS;
pub use self::refuse::{MaybeRefused, Refuse};
pub use self::service::ConnectionLimit;
