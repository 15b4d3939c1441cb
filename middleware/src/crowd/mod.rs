//! Which connections make room when a limit is reached.

mod members;
mod queue;
mod rules;

pub use self::members::{Choice, Crowd};
pub use self::rules::MakeRoom;
