//! Layers that decide which connections are served.

mod accept_rate;
mod access;
mod ban;
mod login;
mod overload;
