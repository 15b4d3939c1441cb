//! Endpoints: where a server listens, as a value and as a string.

mod bind;
pub(crate) mod error;
#[cfg(feature = "systemd")]
mod inherited;
mod input;
mod ipv6;
mod parse;
#[cfg(feature = "systemd")]
mod passed;
mod proxied;
pub(crate) mod remote;
mod text;
#[cfg(feature = "tls")]
mod tls;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ropewalk_middleware::Addr;

use crate::listener::proxy::Trusted;
use crate::listener::unix::Access;
#[cfg(feature = "tls")]
use crate::tls::TlsConfig;

pub use self::error::{BindError, EndpointError};
pub use crate::listener::{HandOver, Listener, PreambleCounts, PreambleDrop};

pub(crate) use self::ipv6::settle;
pub(crate) use self::remote::To;

use self::ipv6::Scoped;
use self::proxied::Known;

/// How many connections may wait to be accepted by default.
const BACKLOG: u32 = 1024;

/// The largest value that the system calls accept.
const MAX_BACKLOG: u32 = i32::MAX as u32;

/// The longest path of a Unix socket in bytes; the kernel's field has one more for the terminator.
const MAX_PATH: usize =
    if cfg!(any(target_os = "linux", target_os = "android")) { 107 } else { 103 };

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
/// requires every peer to have a certificate signed by one in that file. `alpn=a,b` lists the
/// supported protocols, the preferred one first. In these paths, `&` is written as `%26`. The files
/// are read before the server listens anywhere, and again by
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
    backlog: Option<u32>,
    access: Access,
    v6_only: Option<bool>,
    /// The proxies that are trusted to send PROXY headers, if the endpoint is behind a proxy.
    proxied: Option<Trusted>,
    #[cfg(feature = "tls")]
    tls: Option<TlsConfig>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Tcp(SocketAddr),
    /// An IPv6 address with the name of an interface.
    Scoped(Scoped),
    /// A host name and a port.
    Name(String, u16),
    Unix(PathBuf),
    /// A name in the abstract namespace.
    Abstract(Arc<[u8]>),
    #[cfg(feature = "systemd")]
    Inherited(inherited::Inherited),
    Bound(Premade),
}

/// A listener that exists already, until the first bind takes it.
#[derive(Clone)]
struct Premade {
    addr: Addr,
    listener: Arc<Mutex<Option<Box<dyn Listener>>>>,
}

impl Endpoint {
    /// A TCP address; port 0 means any free port. The flow label of an IPv6 address has no meaning
    /// for listening and is dropped.
    pub fn tcp(mut addr: SocketAddr) -> Self {
        if let SocketAddr::V6(v6) = &mut addr {
            v6.set_flowinfo(0);
        }
        Kind::Tcp(addr).into()
    }

    /// A Unix socket at a path.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Kind::Unix(path.into()).into()
    }

    /// A name in Linux's abstract namespace, of 1 to 107 bytes. It has no file, so no file is left
    /// behind, and no permissions: every process in the same network namespace can connect. Check
    /// the peer's [credentials](crate::Peer::credentials).
    pub fn unix_abstract(name: impl AsRef<[u8]>) -> Self {
        Kind::Abstract(name.as_ref().into()).into()
    }

    /// An existing listener, for example of a transport of your own. It can be bound once, by the
    /// first clone of the endpoint that is bound.
    pub fn from_listener(listener: impl Listener) -> Self {
        let addr = listener.local_addr();
        Kind::Bound(Premade { addr, listener: Arc::new(Mutex::new(Some(Box::new(listener)))) })
            .into()
    }

    /// How many connections may wait to be accepted: at least 1; the system may allow fewer. For
    /// TCP and Unix sockets only; binding any other endpoint with a backlog is an error.
    #[must_use]
    pub fn backlog(mut self, connections: u32) -> Self {
        self.backlog = Some(connections.clamp(1, MAX_BACKLOG));
        self
    }

    /// The permissions of a Unix socket's path, at most `0o777`. Binding any other endpoint with a
    /// mode is an error, as is binding with a larger one.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.access.mode = Some(mode);
        self
    }

    /// The user who owns a Unix socket's path, by name or number. Binding any other endpoint with a
    /// user is an error.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.access.user = Some(user.into());
        self
    }

    /// The group of a Unix socket's path, by name or number. Binding any other endpoint with a
    /// group is an error.
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.access.group = Some(group.into());
        self
    }

    /// Encrypts the endpoint's connections: each begins with a TLS handshake. It works with any
    /// endpoint, also one in memory. See [`TlsConfig`], which can also be made from a
    /// `rustls::ServerConfig`.
    ///
    /// A handshake may take 10 s, and at most
    /// [`Server::max_preambles`](crate::Server::max_preambles) may be under way at once. Handshakes
    /// run outside the accept loop, and a connection counts as accepted only when its handshake is
    /// complete; see [`Handle::preambles`](crate::Handle::preambles) for the others.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, config: impl Into<TlsConfig>) -> Self {
        self.tls = Some(config.into());
        self
    }

    /// Its certificates, if it has any.
    #[cfg(feature = "tls")]
    pub(crate) fn tls_config(&self) -> Option<&TlsConfig> {
        self.tls.as_ref()
    }

    /// Checks all that can be checked before binding: the options, and the files that will be read.
    pub(crate) fn check(&self) -> Result<(), BindError> {
        let checked = self.check_options();
        #[cfg(feature = "tls")]
        let checked =
            checked.and_then(|()| self.tls.as_ref().map_or(Ok(()), |tls| Ok(tls.load()?)));
        checked.map_err(|cause| BindError::new(self.to_string(), cause))
    }

    /// The endpoint without its options, TLS and PROXY headers: a string that identifies its
    /// socket. It includes whether the socket accepts IPv4 as well, because that can't be changed
    /// on an existing socket.
    pub(crate) fn place(&self) -> String {
        let v6_only = self.v6_only.filter(|only| *only);
        Self { v6_only, ..self.kind.clone().into() }.to_string()
    }

    /// The string that another process can make the same endpoint of, if there is one: certificates
    /// that are not in files have none.
    pub(crate) fn text(&self) -> Option<String> {
        let text = self.to_string();
        (text.parse().as_ref() == Ok(self)).then_some(text)
    }

    /// The address it names. A name is not looked up.
    pub(crate) fn addr(&self) -> Option<Addr> {
        match &self.kind {
            Kind::Tcp(addr) => Some(Addr::Tcp(*addr)),
            Kind::Unix(path) => Some(Addr::Unix(Some(path.as_path().into()))),
            Kind::Abstract(name) => Some(Addr::Abstract(Arc::clone(name))),
            _ => None,
        }
    }

    /// Whether this process calls `listen` and so sets the backlog.
    fn listens_itself(&self) -> bool {
        matches!(
            self.kind,
            Kind::Tcp(_) | Kind::Scoped(_) | Kind::Name(..) | Kind::Unix(_) | Kind::Abstract(_)
        )
    }

    fn check_options(&self) -> io::Result<()> {
        let wrong = |text| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        match &self.kind {
            Kind::Tcp(_) | Kind::Scoped(_) | Kind::Name(..) => {
                self.check_trusted(&Known::ByAddress)?
            }
            Kind::Unix(path) => {
                check_path(path).or_else(wrong)?;
                self.check_trusted(&Known::ByPermission)?;
            }
            Kind::Abstract(name) => {
                check_name(name).or_else(wrong)?;
                self.check_trusted(&Known::Not)?;
            }
            // Known when it is bound.
            _ => {}
        }
        match &self.kind {
            Kind::Unix(_) if self.access.mode.is_some_and(|mode| mode > 0o777) => {
                wrong("a mode is at most 0o777")
            }
            Kind::Unix(_) if self.v6_only.is_none() => Ok(()),
            Kind::Unix(_) => wrong("v6only is for tcp: endpoints with an IPv6 address only"),
            _ if self.access != Access::default() => {
                wrong("mode, user and group are for unix: endpoints with a path only")
            }
            _ if self.v6_only.is_some() && !self.is_v6() => {
                wrong("v6only is for tcp: endpoints with an IPv6 address only")
            }
            _ if self.backlog.is_some() && !self.listens_itself() => {
                wrong("backlog is for tcp: and unix: endpoints only")
            }
            _ => Ok(()),
        }
    }
}

impl From<Kind> for Endpoint {
    fn from(kind: Kind) -> Self {
        Self {
            kind,
            backlog: None,
            access: Access::default(),
            v6_only: None,
            proxied: None,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

/// Checks a path, whether parsed or built.
fn check_path(path: &Path) -> Result<(), &'static str> {
    let bytes = path.as_os_str().as_bytes();
    match bytes.len() {
        0 => Err("the path is empty"),
        n if n > MAX_PATH => Err("the path is over 107 bytes long (103 on some systems)"),
        _ if bytes.contains(&0) => Err("there is a NUL in the path"),
        _ => Ok(()),
    }
}

/// Checks an abstract name, whether parsed or built.
fn check_name(name: &[u8]) -> Result<(), &'static str> {
    match name.len() {
        0 => Err("the abstract name is empty"),
        n if n > MAX_PATH => Err("the abstract name is over 107 bytes long"),
        _ => Ok(()),
    }
}

impl Premade {
    fn take(&self) -> io::Result<Box<dyn Listener>> {
        let mut listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        listener.take().ok_or_else(|| {
            let text = "it was bound before: a listener made in code can be bound once";
            io::Error::new(io::ErrorKind::AddrInUse, text)
        })
    }
}

impl PartialEq for Premade {
    /// Clones of one value are equal.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.listener, &other.listener)
    }
}

impl Eq for Premade {}

impl fmt::Debug for Premade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.addr.fmt(f)
    }
}
