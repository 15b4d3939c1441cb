//! Who makes room when a cap on connections is full.

mod crowd;
mod queue;
mod rules;

pub use self::crowd::{Crowd, Room};
pub use self::rules::MakeRoom;
