//! Limits on open connections: of all peers together, and of each peer.

mod future;
mod layer;
mod overflow;
mod peer;
mod peers;
mod refuse;
mod service;
mod slot;
mod slots;

pub use self::future::ResponseFuture;
pub use self::layer::ConnectionLimitLayer;
pub use self::overflow::{
    Farewell, MAX_REFUSAL_TIME, Overflow, RefuseBy, RefuseWith, Refuses, Wait,
};
pub use self::peer::{PeerLimit, PeerLimitFuture, PeerLimitLayer};
pub use self::peers::PeerPlace;
pub use self::refuse::{MaybeRefused, Refuse};
pub use self::service::ConnectionLimit;
pub use self::slot::{ConnectionPlace, Place, Unlimited};
pub use self::slots::MAX_REFUSALS;
