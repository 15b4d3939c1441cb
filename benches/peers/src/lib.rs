//! What the load generator, the runner and the servers share.

mod call_cost;
mod certificate;
mod coalesced;
mod mode;
mod process;
mod report;
mod server;

pub use self::call_cost::CallCost;
pub use self::certificate::Certificate;
pub use self::coalesced::coalesced;
pub use self::mode::{Mode, Pattern};
pub use self::process::{Memory, cpu_ns, kernel_memory, on_cores, raise_descriptor_limit, resident};
pub use self::report::{Phase, Report};
pub use self::server::{ServerArgs, listener};

/// An error, as it is printed.
pub type Result<T = (), E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;
