//! What a server may take of the machine: preambles, memory, and how many connections when it is not told.

use super::Server;

const MAX_CONNECTIONS: usize = 10_000;

/// What so many descriptors allow beside so many preambles.
pub(super) fn max_connections(descriptors: usize, preambles: usize) -> usize {
    descriptors.saturating_sub(preambles).clamp(1, MAX_CONNECTIONS)
}

impl<L> Server<L> {
    /// The most preambles (PROXY headers and TLS handshakes, which come before a connection) under way at once, over all
    /// endpoints and workers, with those that have passed and wait to be accepted; at least 1. By default 4096, or a quarter
    /// of the descriptors that the server may use if that is less. Each has a descriptor, and none is among `max_connections`.
    ///
    /// When one more comes, another one is dropped for it, the first that one of these rules finds:
    ///
    /// 1. a silent one, whose peer has sent nothing yet, of the address with the most preambles, if that address has more
    ///    than its share: the number of places divided by the number of addresses;
    /// 2. one that has been silent for a second;
    /// 3. one of the address with the most, if that has more than its share and less than a quarter of all are silent;
    /// 4. any other silent one, of the address with the most first;
    /// 5. any.
    ///
    /// Of several it is always the oldest. A preamble makes room for one of its own address only when it is 20 ms old, or
    /// 250 ms if its peer has sent something, and one that has passed never does: until then the newcomer waits. Up to 64 do (or a quarter of the places, if those are
    /// fewer); when they have been too many for 250 ms, and others had to be dropped for them, the newest of the address with the
    /// most is closed for each that comes, so that they hold up no peer of another address. An address is an IPv4
    /// address, or the first 64 bits of an IPv6 address; behind a proxy it is the client's as soon as the header has told of
    /// it. Peers on Unix sockets have no address, and fall under the rules without one. [`Handle::preambles`](super::Handle::preambles) counts what was
    /// dropped, by reason.
    pub fn max_preambles(mut self, max: usize) -> Self {
        self.max_preambles = Some(max);
        self
    }

    /// How many bytes the buffers of all connections may take together. By default a quarter of the machine's memory, or of
    /// what the control group leaves the process if that is less; 1 GiB where the system does not say, as any but Linux.
    ///
    /// Counted are what was read and is not decoded yet, and what was answered and is not written yet, as allocated; not
    /// what is under 1 KiB, not the buffers each thread lends to whichever connection it serves, and nothing of what a
    /// service, a layer, a call under way or the TLS library keeps.
    ///
    /// From 90 % on the largest connections are not read from, until less than 80 % is in use. If that takes more than a
    /// second, or all of it is in use, the largest are aborted ([`CloseReason::MemoryBudget`](crate::CloseReason)).
    /// [`Handle::memory`](super::Handle::memory) returns how much is in use. The book's chapter on deployment says how large a
    /// connection can become, and how to have the process return the memory to the system.
    ///
    /// ```no_run
    /// # use ropewalk::{Bytes, RawBytes, Server, framed, reply_fn};
    /// # async fn doc() -> ropewalk::Result {
    /// Server::new()
    ///     .listen("tcp:0.0.0.0:8007")
    ///     .memory_budget(256 * 1024 * 1024)
    ///     .serve(framed(RawBytes, reply_fn(|bytes: Bytes| bytes)))
    ///     .await
    /// # }
    /// ```
    pub fn memory_budget(mut self, bytes: usize) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// No memory budget: only the bounds of each connection hold, times the number of connections.
    pub fn unlimited_memory(self) -> Self {
        self.memory_budget(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::max_connections;

    #[test]
    fn connections_have_what_the_preambles_leave_up_to_10_000() {
        for (descriptors, preambles, connections) in
            [(0, 1, 1), (5, 1, 4), (140, 35, 105), (752, 188, 564), (752, 0, 752), (15_936, 3984, 10_000), (10, 20, 1)]
        {
            assert_eq!(max_connections(descriptors, preambles), connections, "{descriptors} descriptors");
        }
    }
}
