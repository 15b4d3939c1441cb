//! A cap on the connections that are open at once.

mod future;
mod layer;
mod overflow;
mod places;
mod service;

pub use self::future::ResponseFuture;
pub use self::layer::ConnectionLimitLayer;
pub use self::overflow::{MAX_REFUSAL_TIME, Overflow, RefuseBy, RefuseWith, Refuses, Wait};
pub use self::places::MAX_REFUSALS;
pub use self::service::ConnectionLimit;
