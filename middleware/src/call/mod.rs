//! Layers for calls: deadlines, limits, panics and latency.

mod catch;
mod deadline;
mod histogram;
mod latency;
mod limit;
mod refuse;
mod slots;
mod timer;

pub use self::catch::{CallPanicked, CatchPanic, CatchPanicFuture, CatchPanicLayer};
pub use self::deadline::{CallDeadline, CallDeadlineFuture, CallDeadlineLayer, CallTimedOut};
pub use self::histogram::Histogram;
pub use self::latency::{CallLatency, CallLatencyFuture, CallLatencyLayer};
pub use self::limit::{CallLimit, CallLimitFuture, CallLimitLayer};
pub use self::refuse::{CallRefuse, CallRefuseFuture, CallRefuseLayer, CallRefused};
pub use self::timer::{CallTimer, LentTimer};
