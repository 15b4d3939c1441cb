//! The client.

mod answers;
mod bounds;
mod calls;
mod ends;
mod floods;
mod forward;
mod rules;
mod storm;
mod tower;
