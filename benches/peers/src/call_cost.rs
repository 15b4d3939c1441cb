//! What a client tells the runner.

use serde::{Deserialize, Serialize};

/// What a call cost a client.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct CallCost {
    pub calls: u64,
    /// The CPU time of all threads of the client for a call
    pub cpu_ns: f64,
    pub wall_ns: f64,
}
