//! The fields that are logged of a connection, and the connections that are logged.

use std::time::Duration;

use tracing::Level;
use tracing::field::{DisplayValue, display};

use super::at_level;
use crate::event::{LogSpan, span};
use crate::{Addr, Escaped, Stats, TlsVersion};

/// Which fields a span has, and their names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fields {
    /// The number, the peer, and the listener.
    #[default]
    Short,
    /// Those, the local address, TLS and the proxy.
    Full,
    /// The same by the names of OpenTelemetry's conventions.
    OpenTelemetry,
}

/// The settings of a log: its fields, and the connections that have lines.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) level: Level,
    pub(super) fields: Fields,
    /// One of so many connections has lines.
    pub(super) sample: u64,
    /// Connections that end sooner have no lines.
    pub(super) slower_than: Duration,
}

impl Settings {
    pub(super) fn new() -> Self {
        Self { level: Level::INFO, fields: Fields::Short, sample: 1, slower_than: Duration::ZERO }
    }
}

/// Makes the span of a connection. Fields without a value are not recorded.
pub(super) fn span(level: Level, fields: Fields, stats: &Stats, local: Option<&Addr>) -> LogSpan {
    let (peer, full, otel) =
        (stats.peer(), fields == Fields::Full, fields == Fields::OpenTelemetry);
    let proxy = peer.proxied().map(|proxied| proxied.proxy());
    let tls = peer.tls().filter(|_| full || otel);
    let version = tls.map(|tls| tls.version());
    // The peer chooses both.
    let server_name =
        tls.and_then(|tls| tls.server_name()).map(|name| Escaped::new(name.as_bytes()));
    let alpn = tls.and_then(|tls| tls.alpn()).map(Escaped::new);
    // The other end of the socket; `client` is the one behind a proxy.
    let socket = proxy.unwrap_or(peer).addr();
    at_level!(level, AT => span!(
        target: "ropewalk::connection",
        AT,
        "connection",
        id = stats.id(),
        // Escaped, because the peer chooses its Unix socket's path.
        peer = (!otel).then(|| display(Escaped::display(peer))),
        listener = stats.listener(),
        local = local.filter(|_| full).map(|local| display(Escaped::display(local))),
        proxy = proxy.filter(|_| full).map(|proxy| display(Escaped::display(proxy))),
        tls = version.filter(|_| full).map(display),
        server_name = server_name.filter(|_| full).map(display),
        alpn = alpn.filter(|_| full).map(display),
        network.transport = otel.then(|| socket.transport()),
        network.peer.address = otel.then(|| address(socket)).flatten(),
        network.peer.port = otel.then(|| port(socket)).flatten(),
        network.local.address = local.filter(|_| otel).and_then(address),
        network.local.port = local.filter(|_| otel).and_then(port),
        client.address = proxy.filter(|_| otel).and_then(|_| address(peer.addr())),
        client.port = proxy.filter(|_| otel).and_then(|_| port(peer.addr())),
        tls.protocol.name = version.filter(|_| otel).map(|_| "tls"),
        tls.protocol.version = version.filter(|_| otel).map(number),
        tls.client.server_name = server_name.filter(|_| otel).map(display),
        network.protocol.name = alpn.filter(|_| otel).map(display),
    ))
}

/// The address without the port; of a Unix socket its path, escaped.
fn address(addr: &Addr) -> Option<DisplayValue<String>> {
    match addr {
        Addr::Tcp(tcp) => Some(display(tcp.ip().to_string())),
        Addr::Unix(Some(_)) | Addr::Abstract(_) => {
            Some(display(Escaped::display(addr).to_string()))
        }
        _ => None,
    }
}

fn port(addr: &Addr) -> Option<u16> {
    match addr {
        Addr::Tcp(tcp) => Some(tcp.port()),
        _ => None,
    }
}

fn number(version: TlsVersion) -> &'static str {
    match version {
        TlsVersion::Tls12 => "1.2",
        TlsVersion::Tls13 => "1.3",
    }
}
