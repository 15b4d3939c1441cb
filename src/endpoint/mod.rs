//! Endpoints: where a server listens, as a value and as a string.

mod error;
mod parse;
mod proxied;
#[cfg(feature = "tls")]
mod tls;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use ropewalk_middleware::Addr;

use crate::Listener;
use crate::listener::preamble::{Preambles, Step, WithPreamble};
use crate::listener::proxy::{ReadHeader, Trusted};
#[cfg(feature = "tls")]
use crate::listener::tls::Handshake;
use crate::listener::{tcp, unix};
#[cfg(feature = "tls")]
use crate::tls::TlsConfig;

pub use self::error::{BindError, EndpointError};

/// How many connections may wait to be accepted where no backlog is given.
const BACKLOG: u32 = 1024;

/// The most the system calls take.
const MAX_BACKLOG: u32 = i32::MAX as u32;

/// The longest path of a Unix socket in bytes; the kernel's field has one more for the terminator.
const MAX_PATH: usize = if cfg!(any(target_os = "linux", target_os = "android")) { 107 } else { 103 };

/// Where a server listens.
///
/// It is written as a string or built in code, and `Display` writes the string again:
///
/// | string | listens on |
/// |---|---|
/// | `tcp:8007` | the port on every IPv4 address |
/// | `tcp:127.0.0.1:8007`, `tcp:[::1]:8007` | that address; port 0 is any free port |
/// | `tcp:localhost:8007` | the first of the name's addresses that can be bound; looked up when binding |
/// | `tls:0.0.0.0:8443?cert=c.pem&key=k.pem` | any of these addresses with TLS, one certificate (feature `tls`) |
/// | `tls:8443?certs=/etc/certs` | the same; the folder's certificates, by the name a peer asks for |
/// | `unix:/run/x.sock`, `unix:relative/path` | a Unix socket at that path, at most 107 bytes long (103 on some systems) |
/// | `proxy+tcp:8007?trust=10.0.0.0/8,::1` | TCP behind proxies in these networks, which send PROXY headers |
/// | `proxy+tls:8443?cert=c.pem&key=k.pem&trust=10.0.0.0/8` | the header first, then TLS |
/// | `proxy+unix:/run/x.sock` | a Unix socket behind a proxy on this machine |
///
/// Options follow behind a `?`, with `&` between them: `tcp:8007?backlog=64`, `unix:/run/x.sock?mode=660&backlog=64`.
/// `backlog` is how many connections may wait to be accepted (1024; the system may allow fewer). `mode` is for paths
/// only, octal, and set before the path can be reached; without it the umask decides. In a path, `%3F` stands for `?`
/// and `%25` for `%`, as any byte may be written.
///
/// With TLS, `cert` is the file with the certificates' chain and `key` the one with its key, both PEM, or `certs` a folder
/// (`TlsConfig::folder` has its layout); `client-ca=FILE` asks every peer for a certificate signed by one in it;
/// `alpn=a,b` names the protocols spoken, the best first. In their paths `%26` stands for `&`. Files are read before
/// anything listens, and again by [`Handle::reload`](crate::Handle::reload) and SIGHUP.
///
/// TCP sockets have `SO_REUSEADDR`, and the accepted ones `TCP_NODELAY` and keepalive probes (after 60 s, six, 10 s
/// apart). Whether `tcp:[::]:8007` takes IPv4 as well is left to the system (on Linux it does unless
/// `net.ipv6.bindv6only` is set).
///
/// Behind `proxy+` each connection begins with a PROXY header (version 1 or 2) that tells who the client is, and then is
/// the client's: see [`proxied`](Endpoint::proxied). `trust` are the networks whose header is believed, in CIDR form or
/// as single addresses, with commas between them. It has no default, and a Unix socket has none: its permissions say who
/// may connect.
///
/// A path that is taken is replaced only if it is a socket on which nobody listens any more. The path is removed with
/// its listener, if it still is the same file. Of servers that start at once on such a path one has it: each locks the
/// path's directory (`flock`) while it looks and binds, if it may read it, and waits for the lock for up to 200 ms.
///
/// ```
/// use ropewalk::Endpoint;
///
/// # fn main() -> Result<(), ropewalk::EndpointError> {
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
    mode: Option<u32>,
    /// Who is trusted to send PROXY headers, where there are to be any.
    proxied: Option<Trusted>,
    #[cfg(feature = "tls")]
    tls: Option<TlsConfig>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Tcp(SocketAddr),
    /// A host name and a port.
    Name(String, u16),
    Unix(PathBuf),
    Bound(Slot),
}

/// A listener that exists already, until the first bind takes it.
#[derive(Clone)]
struct Slot {
    addr: Addr,
    listener: Arc<Mutex<Option<Box<dyn Listener>>>>,
}

impl Endpoint {
    /// A TCP address; port 0 is any free port. The flow label of an IPv6 address means nothing where one listens, and is
    /// dropped.
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

    /// A listener that is there already: of a foreign transport, say. It can be bound once, by whichever clone of the
    /// endpoint comes first.
    pub fn from_listener(listener: impl Listener) -> Self {
        let addr = listener.local_addr();
        Kind::Bound(Slot { addr, listener: Arc::new(Mutex::new(Some(Box::new(listener)))) }).into()
    }

    /// How many connections may wait to be accepted: at least 1, and the system may allow fewer. For TCP and Unix
    /// sockets; binding any other endpoint with a backlog is an error.
    #[must_use]
    pub fn backlog(mut self, connections: u32) -> Self {
        self.backlog = Some(connections.clamp(1, MAX_BACKLOG));
        self
    }

    /// The permissions of a Unix socket's path, at most `0o777`. Binding any other endpoint with a mode is an error, as
    /// is binding with a larger one.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode);
        self
    }

    /// The same with its bytes encrypted: what is accepted has a TLS handshake behind it. Any endpoint may be so, one in
    /// memory too. See [`TlsConfig`], which a `rustls::ServerConfig` turns into as well.
    ///
    /// A handshake takes 10 s at most, and 256 may be under way at once; beyond that the oldest is dropped. They run off
    /// the accept path, and only connections that are through count as accepted; see
    /// [`Handle::preambles`](crate::Handle::preambles) for the others.
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

    /// Looks at whatever can be wrong before anything is bound: the options, and files that are to be read.
    pub(crate) fn check(&self) -> Result<(), BindError> {
        let checked = self.check_options();
        #[cfg(feature = "tls")]
        let checked = checked.and_then(|()| self.tls.as_ref().map_or(Ok(()), |tls| Ok(tls.load()?)));
        checked.map_err(|cause| BindError::new(self.to_string(), cause))
    }

    /// Binds, and listens. To be called within a tokio runtime with I/O and time enabled.
    ///
    /// # Errors
    ///
    /// When the system refuses, when a path is taken by anything but a dead server's socket, when a listener made in
    /// code was bound before, and when an option does not go with the kind of endpoint.
    pub async fn bind(&self) -> Result<Box<dyn Listener>, BindError> {
        self.bind_counted(&Preambles::default()).await
    }

    /// The same, with what becomes of its preambles counted there.
    pub(crate) async fn bind_counted(&self, preambles: &Preambles) -> Result<Box<dyn Listener>, BindError> {
        self.check()?;
        let failed = |cause| BindError::new(self.to_string(), cause);
        let bound = self.try_bind().await.map_err(failed)?;
        self.check_trusted(proxied::has_addresses(&bound.local_addr())).map_err(failed)?;
        let steps = self.steps();
        if steps.is_empty() {
            return Ok(bound);
        }
        Ok(Box::new(WithPreamble::new(bound, steps, preambles.clone())))
    }

    /// What its connections go through before they are accepted, in this order.
    fn steps(&self) -> Vec<Box<dyn Step>> {
        let mut steps: Vec<Box<dyn Step>> = Vec::new();
        if let Some(trusted) = &self.proxied {
            steps.push(Box::new(ReadHeader::new(trusted.clone())));
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            steps.push(Box::new(Handshake(tls.clone())));
        }
        steps
    }

    async fn try_bind(&self) -> io::Result<Box<dyn Listener>> {
        // Clamped when it was set, so it fits.
        let backlog = i32::try_from(self.backlog.unwrap_or(BACKLOG)).unwrap_or(i32::MAX);
        match &self.kind {
            Kind::Tcp(addr) => Ok(Box::new(tcp::bind(*addr, backlog)?)),
            Kind::Name(host, port) => bind_name(host, *port, backlog).await,
            Kind::Unix(path) => Ok(Box::new(unix::bind(path, backlog, self.mode).await?)),
            Kind::Bound(slot) => slot.take(),
        }
    }

    fn check_options(&self) -> io::Result<()> {
        let wrong = |text| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        match &self.kind {
            Kind::Tcp(_) | Kind::Name(..) => self.check_trusted(true)?,
            Kind::Unix(_) => self.check_trusted(false)?,
            // Known when it is bound.
            _ => {}
        }
        match (&self.kind, self.mode, self.backlog) {
            (Kind::Unix(_), Some(0o1000..), _) => wrong("a mode is at most 0o777"),
            (Kind::Unix(path), ..) => check_path(path).or_else(wrong),
            (_, Some(_), _) => wrong("mode is for unix: endpoints only"),
            (Kind::Bound(_), _, Some(_)) => wrong("backlog is for tcp: and unix: endpoints only"),
            _ => Ok(()),
        }
    }
}

impl From<Kind> for Endpoint {
    fn from(kind: Kind) -> Self {
        Self {
            kind,
            backlog: None,
            mode: None,
            proxied: None,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

/// The first of a name's addresses that can be bound, or why the last one could not.
async fn bind_name(host: &str, port: u16, backlog: i32) -> io::Result<Box<dyn Listener>> {
    let mut result = Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    for addr in tokio::net::lookup_host((host, port)).await? {
        match tcp::bind(addr, backlog) {
            Ok(listener) => return Ok(Box::new(listener)),
            Err(error) => result = Err(error),
        }
    }
    result
}

/// What is wrong with a path, whether parsed or built.
fn check_path(path: &Path) -> Result<(), &'static str> {
    let bytes = path.as_os_str().as_bytes();
    match bytes.len() {
        0 => Err("the path is empty"),
        n if n > MAX_PATH => Err("the path is over 107 bytes long (103 on some systems)"),
        _ if bytes.contains(&0) => Err("there is a NUL in the path"),
        _ => Ok(()),
    }
}

impl Slot {
    fn take(&self) -> io::Result<Box<dyn Listener>> {
        let mut listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        listener.take().ok_or_else(|| {
            let text = "it was bound before: a listener made in code can be bound once";
            io::Error::new(io::ErrorKind::AddrInUse, text)
        })
    }
}

impl PartialEq for Slot {
    /// Equal are the clones of one another.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.listener, &other.listener)
    }
}

impl Eq for Slot {}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.addr.fmt(f)
    }
}

impl fmt::Display for Endpoint {
    /// The string that parses to the same endpoint. Some can be made in code only and have none: a listener is written as
    /// `memory:`, or as `listener:` and its address; any but TCP with TLS has `tls+` before it; and certificates that
    /// are in no file are not written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tcp = self.write_scheme(f)?;
        match &self.kind {
            Kind::Tcp(addr) if addr.ip() == Ipv4Addr::UNSPECIFIED => write!(f, "{tcp}:{}", addr.port())?,
            Kind::Tcp(addr) => write!(f, "{tcp}:{addr}")?,
            Kind::Name(host, port) => write!(f, "{tcp}:{host}:{port}")?,
            Kind::Unix(path) => write!(f, "{}", Addr::Unix(Some(path.as_path().into())))?,
            Kind::Bound(Slot { addr: Addr::Memory, .. }) => f.write_str("memory:")?,
            Kind::Bound(slot) => write!(f, "listener:{}", slot.addr)?,
        }
        #[cfg(not(feature = "tls"))]
        let mut sign = '?';
        #[cfg(feature = "tls")]
        let mut sign = self.tls.as_ref().map_or(Ok('?'), |config| tls::write(f, config))?;
        if let Some(backlog) = self.backlog {
            write!(f, "{sign}backlog={backlog}")?;
            sign = '&';
        }
        if let Some(mode) = self.mode {
            write!(f, "{sign}mode={mode:o}")?;
            sign = '&';
        }
        if let Some(trust) = self.proxied.as_ref().and_then(proxied::display) {
            write!(f, "{sign}{trust}")?;
        }
        Ok(())
    }
}

impl Endpoint {
    /// Writes what stands before the scheme of its socket; returns how TCP is called behind that.
    fn write_scheme(&self, f: &mut fmt::Formatter<'_>) -> Result<&'static str, fmt::Error> {
        if self.proxied.is_some() {
            f.write_str(proxied::PREFIX)?;
        }
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            if !matches!(self.kind, Kind::Tcp(_) | Kind::Name(..)) {
                f.write_str("tls+")?;
            }
            return Ok("tls");
        }
        Ok("tcp")
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        parse::parse(text)
    }
}

impl TryFrom<&str> for Endpoint {
    type Error = EndpointError;

    fn try_from(text: &str) -> Result<Self, EndpointError> {
        parse::parse(text)
    }
}

impl TryFrom<String> for Endpoint {
    type Error = EndpointError;

    fn try_from(text: String) -> Result<Self, EndpointError> {
        parse::parse(&text)
    }
}

impl TryFrom<&String> for Endpoint {
    type Error = EndpointError;

    fn try_from(text: &String) -> Result<Self, EndpointError> {
        parse::parse(text)
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(addr: SocketAddr) -> Self {
        Self::tcp(addr)
    }
}
