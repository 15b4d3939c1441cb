//! Limits on the number of connections.

mod crowd;
mod key_limit;
mod limit;
mod limit_random;
mod limit_room;
mod peer_limit;
mod refuse;
