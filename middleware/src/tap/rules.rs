//! Which connections are recorded, how, and how much.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::Connection;
use crate::sample::is_chosen;

/// The default limit of a file: 16 MiB.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// The default limit of the time: 10 minutes.
const MAX_TIME: Duration = Duration::from_secs(600);

/// The contents of the file of a tap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TapFormat {
    /// A packet capture, as Wireshark and `tshark` read it. Each connection is a TCP stream of its
    /// own, with packets made for the purpose: a handshake, the bytes that were read and written,
    /// and the end. Its addresses are the peer's (of a client behind a proxy, the client's) and the
    /// server's own. Connections without addresses (Unix sockets, in memory) have addresses from
    /// 127.0.0.1 on: the server's port is 1 plus the index of the endpoint, and the peer's is made
    /// from the connection's number. A comment on the first packet has that number and the peer.
    #[default]
    PcapNg,
    /// Lines of text: the time in seconds since 1970, the connection's number, `>` for bytes of the
    /// peer and `<` for bytes to it, the offset, and at most 16 bytes in hexadecimal and as ASCII,
    /// in which all but printable characters are dots.
    Hex,
}

/// Which connections a [`TapLayer`](super::TapLayer) records, in which format, and how much of them.
///
/// Without a rule, all connections are chosen. With several kinds of rules a connection has to fit
/// each of them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "rules do nothing until a tap starts with them"]
pub struct TapRules {
    networks: Vec<IpNet>,
    listeners: Vec<usize>,
    sample: u64,
    pub(super) format: TapFormat,
    pub(super) max_bytes: u64,
    pub(super) max_time: Duration,
}

impl TapRules {
    /// All connections, as a packet capture of at most 16 MiB, for at most 10 minutes.
    pub fn new() -> Self {
        Self {
            networks: Vec::new(),
            listeners: Vec::new(),
            sample: 1,
            format: TapFormat::default(),
            max_bytes: MAX_BYTES,
            max_time: MAX_TIME,
        }
    }

    /// Only connections of peers in this network, or in that of another call. An IPv4 address mapped
    /// into IPv6 is the IPv4 address.
    pub fn peer(mut self, network: impl Into<IpNet>) -> Self {
        self.networks.push(network.into());
        self
    }

    /// Only connections of the endpoint with this index, or with that of another call; 0 is the
    /// first.
    pub fn listener(mut self, index: usize) -> Self {
        self.listeners.push(index);
        self
    }

    /// One connection of `n`, by its number.
    ///
    /// # Panics
    ///
    /// Panics if `n` is 0.
    pub fn sample(mut self, n: u64) -> Self {
        assert!(n > 0, "one of 0 connections can't be chosen");
        self.sample = n;
        self
    }

    /// The contents of the file.
    pub fn format(mut self, format: TapFormat) -> Self {
        self.format = format;
        self
    }

    /// The most bytes of the file. The tap ends with the last record that fits.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// How long the tap lasts at most. It is real time, also on a runtime whose clock is paused.
    pub fn max_time(mut self, time: Duration) -> Self {
        self.max_time = time;
        self
    }

    pub(super) fn choose(&self, connection: &Connection) -> bool {
        let fits = |ip: IpAddr| {
            let mapped = match ip {
                IpAddr::V4(v4) => IpAddr::V6(v4.to_ipv6_mapped()),
                IpAddr::V6(_) => ip,
            };
            self.networks.iter().any(|network| network.contains(&ip) || network.contains(&mapped))
        };
        is_chosen(connection.id(), self.sample)
            && (self.listeners.is_empty() || self.listeners.contains(&connection.listener()))
            && (self.networks.is_empty() || connection.peer().ip().is_some_and(fits))
    }
}

impl Default for TapRules {
    fn default() -> Self {
        Self::new()
    }
}
