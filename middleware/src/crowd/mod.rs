//! Which connections make room when a cap is full.

mod members;
mod queue;
mod rules;

pub use self::members::{Choice, Crowd};
pub use self::rules::MakeRoom;
