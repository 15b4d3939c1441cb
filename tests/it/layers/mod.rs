//! Layers under a server: tower's and those of this crate.

mod bandwidth;
mod bans;
mod calls;
mod each;
mod frames;
mod lasting;
mod layer_with;
mod limits;
mod login;
mod rates;
mod read_deadlines;
mod read_deadlines_transport;
mod stack;
mod tap;
