//! Limits on the machine's resources: preambles, memory, and the default number of connections.

use std::time::Duration;

use ropewalk_middleware::MakeRoom;

use super::Server;
use super::handle::Handle;

const MAX_CONNECTIONS: usize = 10_000;

/// How many connections this many descriptors allow besides this many preambles.
pub(super) fn max_connections(descriptors: usize, preambles: usize) -> usize {
    descriptors.saturating_sub(preambles).clamp(1, MAX_CONNECTIONS)
}

impl<L> Server<L> {
    /// The most connections open at once, over all endpoints; further ones stay in the backlog. By
    /// default 10 000, or fewer if the process's descriptor limit allows fewer: 80 % of it minus
    /// 64, or half of a small limit. If endpoints have TLS or PROXY headers,
    /// [`max_preambles`](Self::max_preambles) is subtracted from that; also when the first of them
    /// is added to the running server.
    ///
    /// When all slots are taken and another connection waits, an open one may be aborted to make
    /// room: see [`make_room`](Self::make_room). For a limit that refuses connections, see
    /// [`ConnectionLimitLayer`](crate::ConnectionLimitLayer).
    pub fn max_connections(mut self, max: usize) -> Self {
        self.max_connections = Some(max);
        self
    }

    /// How long a drain goes on accepting before it closes the listeners; 0 by default. It is for
    /// load balancers that take a while to notice a drain: the drain is announced at once
    /// (`STOPPING=1` with `sd_notify`, [`Handle::is_draining`] for a readiness check of your own),
    /// and connections that still arrive are served. After this time the connections begin to
    /// drain.
    ///
    /// This time is a part of the drain's time; if the drain is not longer, connections have no
    /// time to finish. A second signal ends it. A stop and a hot restart don't wait for it.
    pub fn readiness_grace(mut self, time: Duration) -> Self {
        self.options.grace = time;
        self
    }

    /// Which connections make room when [`max_connections`](Self::max_connections) are open and
    /// another one waits; by default all rules of [`MakeRoom`] apply. `None` turns them off: then
    /// new connections wait until an open one ends by itself, and silent peers can keep all others
    /// out.
    ///
    /// The connection that makes room is aborted (its peer sees a reset) and counted under the
    /// reason of its rule. The new one gets the slot only when the aborted one is gone, so the
    /// limit is never exceeded. To learn which waiting connections have a right to a slot, a full
    /// server accepts up to 64 of them (on each worker; fewer if descriptors are scarce). If one of
    /// them has waited for 250 ms and more arrive, the address with the most of them loses one,
    /// with the reason [`NoRoom`](crate::CloseReason::NoRoom).
    ///
    /// ```
    /// use ropewalk::layer::MakeRoom;
    /// use ropewalk::Server;
    ///
    /// // Subscribers may listen for as long as they like, even if others wait.
    /// let server = Server::new().listen("tcp:0.0.0.0:8007").make_room(MakeRoom::new().idle(None));
    /// ```
    pub fn make_room(mut self, rules: impl Into<Option<MakeRoom>>) -> Self {
        self.make_room = rules.into();
        self
    }

    /// Has a [hot restart](Self::hot_restart) of another server of this process hand over the
    /// sockets of this one as well. It is for a server beside the main one, such as an admin
    /// endpoint, which has limits and a drain of its own.
    ///
    /// This server accepts when the other one does. When a new process has taken over, both drain.
    /// In the new process, bind the other server first, then this one, then await both. An endpoint
    /// of this server that was removed while it runs is not handed over; the new process opens it
    /// again if its program names it. Other changes of its endpoints are not handed over.
    ///
    /// While both run, a reload of the other one ([`Handle::reload`], or SIGHUP) also reloads the
    /// certificates and [resources](Self::reload) of this one: those of both, or none.
    ///
    /// ```no_run
    /// # use ropewalk::{Bytes, RawBytes, Server, framed, reply_fn};
    /// # use ropewalk::server::Restart;
    /// # async fn doc() -> ropewalk::Result {
    /// let echo = || framed(RawBytes, reply_fn(|bytes: Bytes| bytes));
    /// let main = Server::new().listen("tcp:8007").signals().hot_restart(Restart::new()).serve(echo()).bind().await?;
    /// let beside = Server::new().listen("tcp:127.0.0.1:8008").beside(&main.handle()).serve(echo()).bind().await?;
    /// let handle = beside.handle();
    /// let until_then = async {
    ///     let ended = main.await;
    ///     handle.stop();
    ///     ended
    /// };
    /// let (ended, beside) = tokio::join!(until_then, beside);
    /// ended.and(beside)
    /// # }
    /// ```
    pub fn beside(mut self, handle: &Handle) -> Self {
        self.options.beside = Some(handle.0.beside.clone());
        self
    }

    /// The most preambles (PROXY headers and TLS handshakes, which come before a connection) under
    /// way at once, over all endpoints and workers, including those that are complete and wait to
    /// be accepted; at least 1. By default 4096, or a quarter of the descriptors that the server
    /// may use if that is less. Each uses a descriptor; they do not count towards
    /// `max_connections`.
    ///
    /// When one more arrives, one is dropped to make room, by the first of these rules that finds
    /// one:
    ///
    /// 1. a silent one, whose peer has sent nothing yet, of the address with the most preambles, if
    ///    that address has more than its share, which is the number of slots divided by the number
    ///    of addresses;
    /// 2. one that has been silent for a second;
    /// 3. one of the address with the most, if that address has more than its share and less than a
    ///    quarter of all are silent;
    /// 4. any other silent one, of the address with the most first;
    /// 5. any.
    ///
    /// If a rule finds several, the oldest is dropped. A preamble makes room for another one of its
    /// own address only when it is 20 ms old, or 250 ms if its peer has sent bytes; a complete one
    /// never makes room for its own address. Until then the newcomer waits. Up to 64 may wait (or a
    /// quarter of the slots, if that is less). When more than that have waited for 250 ms, and
    /// others had to be dropped for them, each newcomer causes the newest one of the address with
    /// the most to be closed, so that they don't delay peers of other addresses. An address is an
    /// IPv4 address, or the first 64 bits of an IPv6 address; behind a proxy it is the client's
    /// address once the header has been read. Peers on Unix sockets have no address; only the rules
    /// that don't need one apply to them. [`Handle::preambles`](super::Handle::preambles) counts
    /// the dropped preambles by reason.
    pub fn max_preambles(mut self, max: usize) -> Self {
        self.max_preambles = Some(max);
        self
    }

    /// How many bytes the buffers of all connections may use together. By default a quarter of the
    /// machine's memory, or of the memory that the control group allows the process if that is
    /// less; 1 GiB where this is unknown, as on all systems but Linux.
    ///
    /// It counts the allocated size of buffers with bytes that are read but not decoded yet, and
    /// with answers that are not written yet. It does not count buffers under 1 KiB, the buffers
    /// that each thread lends to the connection it serves, and memory that a service, a layer, a
    /// call under way or the TLS library keeps.
    ///
    /// From 90 % on, the largest connections are not read from until less than 80 % is in use. If
    /// that takes more than a second, or if the whole budget is in use, the largest are aborted
    /// ([`CloseReason::MemoryBudget`](crate::CloseReason)).
    /// [`Handle::memory`](super::Handle::memory) returns how much is in use. The book's chapter on
    /// deployment describes how large a connection can become, and how to make the process return
    /// memory to the system.
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

    /// Removes the memory budget: memory is then limited only by the limits of each connection,
    /// times the number of connections.
    pub fn unlimited_memory(self) -> Self {
        self.memory_budget(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::max_connections;

    #[test]
    fn connections_have_the_descriptors_that_preambles_leave_up_to_10_000() {
        for (descriptors, preambles, connections) in [
            (0, 1, 1),
            (5, 1, 4),
            (140, 35, 105),
            (752, 188, 564),
            (752, 0, 752),
            (15_936, 3984, 10_000),
            (10, 20, 1),
        ] {
            assert_eq!(
                max_connections(descriptors, preambles),
                connections,
                "{descriptors} descriptors"
            );
        }
    }
}
