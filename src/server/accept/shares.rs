//! Which worker accepts from which socket.

use std::io;

use crate::listener::opened::OpenSocket;

/// A socket for a worker, with the numbers that [`Listening`](super::Listening) has.
pub(super) struct Share {
    pub(super) endpoint: usize,
    pub(super) socket: usize,
    pub(super) opened: OpenSocket,
}

/// Distributes the sockets. Every worker gets a socket of each endpoint, and every socket a worker;
/// the smaller of the two numbers is shared.
pub(super) fn deal(sockets: &[Vec<OpenSocket>], workers: usize) -> io::Result<Vec<Vec<Share>>> {
    let mut shares: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
    let mut first = 0;
    for (endpoint, sockets) in sockets.iter().enumerate() {
        // One that was removed in the process before this one has no sockets.
        let turns = if sockets.is_empty() { 0 } else { workers.max(sockets.len()) };
        for turn in 0..turns {
            let n = turn % sockets.len();
            shares[turn % workers].push(Share {
                endpoint,
                socket: first + n,
                opened: sockets[n].share()?,
            });
        }
        first += sockets.len();
    }
    Ok(shares)
}
