//! Layers around the frames of a connection.

mod answer_rate;
mod call_deadline;
mod call_latency;
mod call_limit;
mod catch_panic;
mod frame_rate;
mod key_rate;
