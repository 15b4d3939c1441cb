//! Endpoints: their strings, their sockets, PROXY headers, and remotes to connect to.

mod bad_strings;
mod connect;
mod proxied;
mod proxied_sockets;
mod strings;
mod tcp;
mod unix_owner;
mod unix_sockets;
