//! The counts of each endpoint.

use std::sync::Arc;

use ropewalk_middleware::Addr;

use super::Tally;
use super::counts::Counts;
use super::shared::Shared;
use super::table::{EndpointState, Entry};
use crate::listener::PreambleCounts;
use crate::server::handle::Handle;

/// One endpoint of a server, with its counts at one moment: see [`Handle::endpoints`].
#[derive(Clone, Debug)]
pub struct EndpointInfo {
    number: usize,
    service: Arc<str>,
    address: Addr,
    state: EndpointState,
    tally: Tally,
    preambles: PreambleCounts,
}

impl EndpointInfo {
    /// Its number, in the order of the calls of `listen`, `serve_on` and [`Handle::add_endpoint`]:
    /// [`ConnectionInfo::listener`](crate::ConnectionInfo::listener) of its connections.
    pub fn number(&self) -> usize {
        self.number
    }

    /// The name of its service: that of [`Server::serve_on`](crate::Server::serve_on), or `main`
    /// for the service of `serve`.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The address it is bound to.
    pub fn address(&self) -> &Addr {
        &self.address
    }

    /// Whether connections are accepted on it.
    pub fn state(&self) -> EndpointState {
        self.state
    }

    /// How many of its connections were accepted, are open, and were closed for each reason.
    pub fn counts(&self) -> &Counts {
        &self.tally.counts
    }

    /// Bytes received on its connections, open and closed ones.
    pub fn bytes_in(&self) -> u64 {
        self.tally.bytes_in
    }

    /// Bytes sent on them.
    pub fn bytes_out(&self) -> u64 {
        self.tally.bytes_out
    }

    /// Frames received on them.
    pub fn frames_in(&self) -> u64 {
        self.tally.frames_in
    }

    /// Frames sent on them.
    pub fn frames_out(&self) -> u64 {
        self.tally.frames_out
    }

    /// Its TLS handshakes and PROXY headers. They are counted under a lock of their own, so they
    /// may be a moment younger than the other counts.
    pub fn preambles(&self) -> &PreambleCounts {
        &self.preambles
    }

    /// How often a connection could not be accepted, for example because no descriptor was free.
    pub fn accept_errors(&self) -> u64 {
        self.tally.accept_errors
    }
}

impl Handle {
    /// The endpoints of the server with their counts, all taken at one moment; empty until the
    /// server is bound.
    ///
    /// It looks at each open connection, so it is meant for a call every few seconds, and not for
    /// each connection.
    ///
    /// ```
    /// # fn doc(handle: &ropewalk::Handle) {
    /// for endpoint in handle.endpoints() {
    ///     let open = endpoint.counts().active();
    ///     let refused = endpoint.counts().refused();
    ///     println!("{} ({}): {open} open, {refused} refused", endpoint.service(), endpoint.address());
    /// }
    /// # }
    /// ```
    pub fn endpoints(&self) -> Vec<EndpointInfo> {
        let (services, entries) = self.0.endpoints.all();
        let tallies = self.0.tallies(entries.len());
        let each = entries.into_iter().zip(tallies).enumerate();
        each.map(|(number, (entry, tally))| {
            let Entry { service, address, state, preambles } = entry;
            let preambles = preambles.of_endpoint();
            EndpointInfo {
                number,
                service: Arc::clone(&services[service]),
                address,
                state,
                tally,
                preambles,
            }
        })
        .collect()
    }
}

impl Shared {
    fn tallies(&self, endpoints: usize) -> Vec<Tally> {
        let mut books = self.lock();
        let mut tallies: Vec<Tally> =
            (0..endpoints).map(|number| books.tally(number).clone()).collect();
        // Under the lock of the books, so that a connection that closes is in one of the two.
        self.registry.each_open(|connection| {
            if let Some(tally) = tallies.get_mut(connection.listener()) {
                tally.add(&connection.stats());
            }
        });
        tallies
    }

    /// Adds errors of an endpoint's listener.
    pub(in crate::server) fn count_accept_errors(&self, endpoint: usize, errors: u64) {
        self.lock().tally(endpoint).accept_errors += errors;
    }
}
