//! Which addresses the endpoint may have, and what a connection to each may do.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;

use ropewalk::{Addr, Connection, Endpoint, Error, Result};

/// The permissions of a path if the endpoint names no others: for the user of the server.
const MODE: u32 = 0o600;

/// The same endpoint; if it is a path without a mode, for this user only.
pub(crate) fn closed(endpoint: Endpoint) -> Endpoint {
    let text = endpoint.to_string();
    let (place, options) = text.split_once('?').unwrap_or((&text, ""));
    let is_path =
        place.trim_start_matches("proxy+").trim_start_matches("tls+").starts_with("unix:")
            && !place.contains("unix:@");
    if is_path && !options.split('&').any(|option| option.starts_with("mode=")) {
        return endpoint.mode(MODE);
    }
    endpoint
}

/// A header that names no client counts as the proxy's own connection, so what a connection says
/// doesn't tell.
fn is_proxied(endpoint: &Endpoint) -> bool {
    endpoint.to_string().starts_with("proxy+")
}

/// Refuses an address that other machines can reach, unless it has a token and TLS.
pub(crate) fn check(endpoint: &Endpoint, address: &Addr, has_token: bool) -> Result {
    let Addr::Tcp(tcp) = address else { return Ok(()) };
    if tcp.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    let what = match (endpoint.is_encrypted(), has_token) {
        (true, true) => return Ok(()),
        (true, false) => "give it a token (Admin::token_file)",
        (false, true) => "encrypt it (tls:…?cert=FILE&key=FILE, and no plain=true)",
        (false, false) => {
            "encrypt it (tls:…?cert=FILE&key=FILE) and give it a token (Admin::token_file)"
        }
    };
    Err(Error::other(format!(
        "{address} can be reached from other machines: {what}, or listen on tcp:127.0.0.1:9901 or a Unix socket, and reach it \
         through ssh -L"
    )))
}

/// An address of the endpoint.
#[derive(Debug)]
pub(crate) struct Bound {
    address: Addr,
    /// It is the file of a Unix socket, whose permissions decide: not all users may connect.
    by_path: bool,
}

impl Bound {
    pub(crate) fn new(endpoint: &Endpoint, address: &Addr) -> Self {
        // Behind a proxy the permissions are those of the proxy. An abstract name has no
        // permissions. A file that a service manager has made may be open to all. To connect takes
        // the permission to write.
        let is_closed = |mode: u32| mode & 0o002 == 0;
        let by_path = match address {
            Addr::Unix(Some(path)) if !is_proxied(endpoint) => {
                fs::metadata(path).is_ok_and(|file| is_closed(file.permissions().mode()))
            }
            _ => false,
        };
        Self { address: address.clone(), by_path }
    }
}

/// What is known of the other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Via {
    /// The address it has come to, if the endpoint has one.
    pub(crate) bound: Option<IpAddr>,
    /// It came through the file of a Unix socket, whose permissions decide.
    pub(crate) by_path: bool,
    pub(crate) encrypted: bool,
    /// The peer, for the log.
    pub(crate) peer: String,
}

impl Via {
    pub(crate) fn new(connection: &Connection, bound: &Bound) -> Self {
        let peer = connection.peer();
        let bound_to = match bound.address {
            Addr::Tcp(tcp) => Some(tcp.ip()),
            _ => None,
        };
        Self {
            bound: bound_to,
            by_path: bound.by_path,
            encrypted: connection.tls().is_some(),
            peer: ropewalk::log::Escaped::display(peer).to_string(),
        }
    }
}
