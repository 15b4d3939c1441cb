//! Endpoints: where a server listens, as a value and as a string.

mod bind;
pub(crate) mod error;
#[cfg(feature = "systemd")]
mod inherited;
mod input;
mod options;
mod parse;
#[cfg(feature = "systemd")]
mod passed;
mod premade;
mod proxied;
pub(crate) mod remote;
mod scheme;
pub(crate) mod tcp;
mod text;
#[cfg(feature = "rustls")]
mod tls;
mod unix;

use std::io;

use ropewalk_middleware::Addr;
use rustix::net::AddressFamily;

use crate::listener::opened::{OpenSocket, check};
use crate::listener::proxy::Trusted;
#[cfg(feature = "rustls")]
use crate::tls::TlsConfig;

pub use self::error::{BindError, EndpointError};
pub use crate::listener::{HandOver, Listener, PreambleCounts, PreambleDrop, Protocols};

pub(crate) use self::remote::To;
pub(crate) use self::tcp::settle;

#[cfg(feature = "systemd")]
use self::inherited::Inherited;
use self::input::Input;
use self::options::SocketOptions;
use self::premade::Premade;
use self::scheme::Scheme;
use self::tcp::TcpAddress;
use self::unix::UnixAddress;

/// The schemes and their forms, for messages and `--help`.
pub(crate) const SCHEMES: [(&str, &str); 5] = [
    ("tcp", "tcp:PORT, tcp:HOST:PORT"),
    ("tls", "tls:HOST:PORT?cert=FILE&key=FILE"),
    ("unix", "unix:PATH[?mode=660], unix:@NAME"),
    ("systemd", "systemd:NAME"),
    ("fd", "fd:N"),
];

/// An address, by the file that knows its scheme.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Tcp(TcpAddress),
    Unix(UnixAddress),
    #[cfg(feature = "systemd")]
    Inherited(Inherited),
    Bound(Premade),
}

impl Kind {
    /// Parses what follows the scheme, up to the options.
    fn parse(input: Input<'_>, scheme: &str, text: &str) -> Result<Self, EndpointError> {
        match scheme {
            "tcp" | "tls" => TcpAddress::parse(input, text).map(Self::Tcp),
            "unix" => UnixAddress::parse(input, text).map(Self::Unix),
            #[cfg(feature = "systemd")]
            "systemd" | "fd" => Inherited::parse(input, scheme, text).map(Self::Inherited),
            #[cfg(not(feature = "systemd"))]
            "systemd" | "fd" => {
                let problem = format!(
                    "{scheme}: needs ropewalk's feature \"systemd\", which this program is built without"
                );
                Err(input.error(problem, "turn it on in its Cargo.toml"))
            }
            "memory" => Err(input.error(
                "a memory: endpoint has no name",
                "make it with ropewalk::memory::endpoint()",
            )),
            _ => Err(parse::unknown_scheme(input, scheme)),
        }
    }

    fn scheme(&self) -> &dyn Scheme {
        match self {
            Self::Tcp(address) => address,
            Self::Unix(address) => address,
            #[cfg(feature = "systemd")]
            Self::Inherited(which) => which,
            Self::Bound(premade) => premade,
        }
    }
}

/// Makes a listener, watched by the current runtime, from a socket; the number is how many
/// connections can wait in it.
type Watch = fn(OpenSocket, usize) -> io::Result<Box<dyn Listener>>;

/// The way to watch sockets of this address family. An inherited socket may have any.
fn watcher(family: AddressFamily) -> io::Result<Watch> {
    match family {
        AddressFamily::INET | AddressFamily::INET6 => Ok(tcp::listener::watch),
        AddressFamily::UNIX => Ok(unix::listener::watch),
        other => {
            let text = format!("its address family ({}) is not IPv4, IPv6 or Unix", other.as_raw());
            Err(io::Error::new(io::ErrorKind::InvalidInput, text))
        }
    }
}

fn watch(opened: OpenSocket, backlog: usize) -> io::Result<Box<dyn Listener>> {
    watcher(check(&opened.socket)?)?(opened, backlog)
}

/// Where a server listens.
///
/// An endpoint is parsed from a string or built in code, and `Display` writes it as the string
/// again:
///
/// | string | listens on |
/// |---|---|
/// | `tcp:8007` | the port on every IPv4 address |
/// | `tcp:127.0.0.1:8007`, `tcp:[::1]:8007` | that address; port 0 means any free port |
/// | `tcp:[fe80::1%eth0]:8007` | a link-local address on that interface (or its number); looked up when binding |
/// | `tcp:localhost:8007` | the first of the name's addresses that can be bound; looked up when binding |
/// | `tls:0.0.0.0:8443?cert=c.pem&key=k.pem` | any of these addresses with TLS, one certificate (feature `tls`) |
/// | `tls:8443?certs=/etc/certs` | the same; certificates from a folder, chosen by the name that a peer asks for |
/// | `unix:/run/x.sock`, `unix:relative/path` | a Unix socket at that path, at most 107 bytes long (103 on some systems) |
/// | `unix:@name` | a name of up to 107 bytes in Linux's abstract namespace: it has no file and no permissions |
/// | `systemd:web`, `systemd:0` | a socket opened by the service manager, by its name or its index (feature `systemd`) |
/// | `fd:3` | an inherited descriptor of a listening socket (feature `systemd`) |
/// | `tls+systemd:web?cert=c.pem&key=k.pem` | any of the last four kinds with TLS: `tls+unix:`, `tls+fd:` |
/// | `proxy+tcp:8007?trust=10.0.0.0/8,::1` | TCP behind proxies in these networks, which send PROXY headers |
/// | `proxy+tls:8443?cert=c.pem&key=k.pem&trust=10.0.0.0/8` | the header first, then TLS |
/// | `proxy+unix:/run/x.sock` | a Unix socket behind a proxy on this machine |
/// | `proxy+systemd:web?trust=10.0.0.0/8` | an inherited socket: with `trust` if it is a TCP socket, without if it has a path |
///
/// Options follow a `?`, separated by `&`: `tcp:8007?backlog=64`,
/// `unix:/run/x.sock?mode=660&backlog=64`. `backlog` is how many connections may wait to be
/// accepted (1024; the system may allow fewer). `mode`, `user` and `group` are for paths only, and
/// are set before peers can reach the path. The mode is octal; by default the umask determines it.
/// Users and groups are names or numbers; only root can give a file to another user. In a path, any
/// byte may be written in percent-encoding; `?` must be written as `%3F`, `%` as `%25`, and a
/// leading `@` as `%40`. Inherited sockets have no options.
///
/// With TLS, `cert` is the file with the certificate chain and `key` the file with its key, both
/// PEM; or `certs` is a folder (`TlsConfig::folder` describes its layout). `client-ca=FILE`
/// requires every peer to have a certificate signed by one in that file; with
/// `client-cert=optional` peers without one may connect too, and with `crl=FILE` those in the
/// revocation lists of that file may not. `tickets=true` resumes sessions by tickets
/// ([`TlsConfig::tickets`](crate::TlsConfig::tickets)). `alpn=a,b` lists the supported protocols,
/// the preferred one first. With `plain=true` a connection may also begin with plain
/// text ([`TlsConfig::accept_plain`](crate::TlsConfig::accept_plain)). In these paths, `&` is
/// written as `%26`. The files are read before the server listens anywhere, and again by
/// [`Handle::reload`](crate::Handle::reload) and SIGHUP.
///
/// TCP sockets have `SO_REUSEADDR`, and the accepted ones `TCP_NODELAY`, keepalive probes (after 60
/// s, six, 10 s apart) and, on Linux, `TCP_NOTSENT_LOWAT` (32 KiB). If the system refuses a socket
/// option, the error names it; but an option that only improves connections (`TCP_NODELAY`,
/// `TCP_NOTSENT_LOWAT` and the times of the probes) is omitted with a warning in the log.
///
/// The system determines whether `tcp:[::]:8007` accepts IPv4 as well (on Linux it does unless
/// `net.ipv6.bindv6only` is set). In a server that also has `tcp:0.0.0.0:8007` it accepts IPv6
/// only, so that both can be bound. `?v6only=true` and `?v6only=false` set this for any IPv6
/// address ([`v6_only`](Endpoint::v6_only)). An IPv4 peer of such a socket appears with its IPv4
/// address everywhere.
///
/// With `proxy+` each connection begins with a PROXY header (version 1 or 2), which contains the
/// client's address; the bytes after it come from the client: see [`proxied`](Endpoint::proxied).
/// `trust` lists the networks whose headers are believed, in CIDR form or as single addresses,
/// separated by commas. It has no default. A Unix socket does not have this option, because its
/// permissions determine which processes may connect.
///
/// An existing path is replaced only if it is a socket on which no process listens any more. The
/// path is removed with its listener, if it is still the same file. If several servers start at
/// once on the same path, only one gets it: each locks the path's directory (`flock`) while it
/// checks and binds, if it may read the directory, and waits for the lock for up to 200 ms. The
/// path of an inherited socket belongs to the process that opened it and is never removed; in a hot
/// restart it passes to the new process with the socket.
///
/// Descriptors are inherited as described in `sd_listen_fds(3)` of systemd: `LISTEN_PID` must name
/// this process, and `LISTEN_FDNAMES` contains the names. Each can be bound once. A descriptor that
/// is not a listening stream socket is refused, and so is an `fd:` that this process has opened
/// itself. All of them are closed on exec, and `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES` are
/// removed from the environment, when the first `systemd:` or `fd:` endpoint of the process is
/// bound: child processes don't see them, and endpoints bound later still find their sockets.
/// Rust's own access to the environment is locked; C code that calls `getenv` on another thread at
/// that moment may miss a variable (it doesn't read freed memory, because the initial environment
/// of a process is never freed). If that is a problem for your C code, remove the variables at the
/// beginning of `main`, and listen on `fd:3`.
///
/// ```
/// use ropewalk::Endpoint;
///
/// # fn main() -> Result<(), ropewalk::endpoint::EndpointError> {
/// let endpoint: Endpoint = "unix:/run/x.sock?mode=660".parse()?;
/// assert_eq!(endpoint, Endpoint::unix("/run/x.sock").mode(0o660));
/// assert_eq!(endpoint.to_string(), "unix:/run/x.sock?mode=660");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    kind: Kind,
    options: SocketOptions,
    /// The proxies that are trusted to send PROXY headers, if the endpoint is behind a proxy.
    proxied: Option<Trusted>,
    #[cfg(feature = "rustls")]
    tls: Option<TlsConfig>,
    /// The protocols that are told apart.
    protocols: Option<Protocols>,
}

impl Endpoint {
    /// Encrypts the endpoint's connections: each begins with a TLS handshake. It works with any
    /// endpoint, also one in memory. See [`TlsConfig`], which can also be made from a
    /// `rustls::ServerConfig`.
    ///
    /// A handshake may take 10 s, and at most
    /// [`Server::max_preambles`](crate::Server::max_preambles) may be under way at once. Handshakes
    /// run outside the accept loop, and a connection counts as accepted only when its handshake is
    /// complete; see [`Handle::preambles`](crate::Handle::preambles) for the others.
    #[cfg(feature = "rustls")]
    #[must_use]
    pub fn tls(mut self, config: impl Into<TlsConfig>) -> Self {
        self.tls = Some(config.into());
        self
    }

    /// Recognizes the protocol of each connection by the first bytes that its peer sends, after the
    /// PROXY header and inside TLS if there are any:
    /// [`Peer::recognized`](crate::Peer::recognized) has its name, and a
    /// [`route`](crate::leaf::route) chooses a service by it.
    ///
    /// No more bytes are read than may be needed, and the service reads them again. A peer has 10 s
    /// to send them, under the limits of preambles
    /// ([`Server::max_preambles`](crate::Server::max_preambles)); one that closes before it has
    /// sent any is no connection. If no protocol fits, or the peer half-closes before it is known,
    /// `recognized` is `None`. It works with any endpoint, also one in memory. It has no string, so
    /// a hot restart does not hand over such an endpoint that a handle has added.
    ///
    /// The stream of such a connection is boxed, as with TLS: a virtual call for each read and
    /// write.
    ///
    /// ```no_run
    /// use ropewalk::endpoint::Protocols;
    /// use ropewalk::leaf::route;
    /// use ropewalk::{Bytes, Endpoint, Lines, Netstring, Result, Server, framed, reply_fn};
    ///
    /// # async fn doc() -> Result {
    /// let endpoint: Endpoint = "tcp:127.0.0.1:8007".parse()?;
    /// let protocols = Protocols::new().begins_with("greeting", "HELO ");
    /// let lines = framed(Lines::crlf(), reply_fn(|line: Bytes| line));
    /// let netstrings = framed(Netstring::new(), reply_fn(|frame: Bytes| frame));
    /// let service = route(netstrings)
    ///     .when(|connection| connection.peer().recognized() == Some("greeting"), lines);
    /// Server::new().listen(endpoint.recognize(protocols)).serve(service).await
    /// # }
    /// ```
    #[must_use]
    pub fn recognize(mut self, protocols: Protocols) -> Self {
        self.protocols = Some(protocols);
        self
    }

    /// Whether each of its connections begins with a TLS handshake: not if it also accepts plain
    /// text.
    pub fn is_encrypted(&self) -> bool {
        #[cfg(feature = "rustls")]
        let encrypted = self.tls.as_ref().is_some_and(|tls| !tls.accepts_plain);
        #[cfg(not(feature = "rustls"))]
        let encrypted = false;
        encrypted
    }

    /// Its certificates, if it has any.
    #[cfg(feature = "rustls")]
    pub(crate) fn tls_config(&self) -> Option<&TlsConfig> {
        self.tls.as_ref()
    }

    /// Checks all that can be checked before binding: the options, and the files that will be read.
    pub(crate) fn check(&self) -> Result<(), BindError> {
        let checked = self.check_options();
        #[cfg(feature = "rustls")]
        let checked =
            checked.and_then(|()| self.tls.as_ref().map_or(Ok(()), |tls| Ok(tls.load()?)));
        checked.map_err(|cause| BindError::new(self, cause))
    }

    /// The endpoint without its options, TLS and PROXY headers: a string that identifies its
    /// socket. It includes whether the socket accepts IPv4 as well, because that can't be changed
    /// on an existing socket.
    pub(crate) fn place(&self) -> String {
        let v6_only = self.options.v6_only.filter(|only| *only);
        let options = SocketOptions { v6_only, ..SocketOptions::default() };
        Self { options, ..self.kind.clone().into() }.to_string()
    }

    /// The string from which another process can make the same endpoint. `None` if there is no such
    /// string, for example because its certificates are not in files.
    pub(crate) fn text(&self) -> Option<String> {
        let text = self.to_string();
        (text.parse().as_ref() == Ok(self)).then_some(text)
    }

    /// The address in its string, if it has one. A host name is not looked up.
    pub(crate) fn addr(&self) -> Option<Addr> {
        self.kind.scheme().addr()
    }

    /// Whether this process calls `listen` and so sets the backlog.
    fn listens_itself(&self) -> bool {
        self.kind.scheme().options().contains(&"backlog")
    }

    fn check_options(&self) -> io::Result<()> {
        let scheme = self.kind.scheme();
        scheme.check().map_err(|text| io::Error::new(io::ErrorKind::InvalidInput, text))?;
        if let Some(peers) = scheme.peers() {
            self.check_trusted(peers)?;
        }
        self.options.check(scheme.options())
    }
}

impl From<Kind> for Endpoint {
    fn from(kind: Kind) -> Self {
        Self {
            kind,
            options: SocketOptions::default(),
            proxied: None,
            #[cfg(feature = "rustls")]
            tls: None,
            protocols: None,
        }
    }
}
