//! What is written of connections and frames: logs, and recordings.

mod escape;
mod log;
mod log_fields;
mod log_limits;
mod log_panics;
mod tap;
