//! The connection itself, and layers that change what it may do.

mod bandwidth;
mod connection;
mod info;
mod lifetime;
mod read_deadline;
