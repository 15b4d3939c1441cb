//! `unix:PATH` and `unix:@NAME`: Unix sockets at a path, or by a name in Linux's abstract
//! namespace.

pub(super) mod listener;

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ropewalk_middleware::Addr;

use super::input::Input;
use super::options::SocketOptions;
use super::scheme::{Identified, Opening, Scheme};
use super::{Endpoint, EndpointError, Kind};

/// The longest path of a Unix socket in bytes; the kernel's field has one more for the terminator.
const MAX_PATH: usize =
    if cfg!(any(target_os = "linux", target_os = "android")) { 107 } else { 103 };

/// The address of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UnixAddress {
    Path(PathBuf),
    /// A name in the abstract namespace.
    Abstract(Arc<[u8]>),
}

impl Endpoint {
    /// A Unix socket at a path.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Kind::Unix(UnixAddress::Path(path.into())).into()
    }

    /// A name in Linux's abstract namespace, of 1 to 107 bytes. It has no file, so no file is left
    /// behind, and no permissions: every process in the same network namespace can connect. Check
    /// the peer's [credentials](crate::Peer::credentials).
    pub fn unix_abstract(name: impl AsRef<[u8]>) -> Self {
        Kind::Unix(UnixAddress::Abstract(name.as_ref().into())).into()
    }
}

impl UnixAddress {
    /// Parses what follows `unix:`.
    pub(super) fn parse(input: Input<'_>, text: &str) -> Result<Self, EndpointError> {
        match text.strip_prefix('@') {
            Some(name) => abstract_name(input, name).map(Self::Abstract),
            None => path(input, text).map(Self::Path),
        }
    }

    /// The path for system calls: one that begins with NUL is an abstract name.
    pub(crate) fn path(&self) -> Cow<'_, Path> {
        match self {
            Self::Path(path) => path.into(),
            Self::Abstract(name) => {
                PathBuf::from(OsStr::from_bytes(&[b"\0", &name[..]].concat())).into()
            }
        }
    }
}

fn path(input: Input<'_>, text: &str) -> Result<PathBuf, EndpointError> {
    if text.is_empty() {
        return Err(input.error("there is no path", "write unix:/run/x.sock"));
    }
    if text.starts_with("//") {
        // An absolute path, as in a URL. A path that really begins with "//" is written "%2F/".
        let path = text.trim_start_matches('/');
        return Err(
            input.not_a_url(format!("unix:/{}", if path.is_empty() { "run/x.sock" } else { path }))
        );
    }
    let path = PathBuf::from(OsString::from_vec(input.decode(text)?));
    let bytes = path.as_os_str().len();
    match check_path(&path) {
        Err(_) if bytes > MAX_PATH => {
            let problem = format!("the path has {bytes} bytes, which is over {MAX_PATH}");
            Err(input
                .error(problem, "choose a shorter one, or one relative to the working directory"))
        }
        Err(problem) => Err(input.error(problem, "choose another")),
        Ok(()) => Ok(path),
    }
}

fn abstract_name(input: Input<'_>, text: &str) -> Result<Arc<[u8]>, EndpointError> {
    let name = input.decode(text)?;
    match check_name(&name) {
        Ok(()) => Ok(name.into()),
        Err(problem) => {
            Err(input.error(problem, "write unix:@name, with 1 to 107 bytes after the \"@\""))
        }
    }
}

impl Scheme for UnixAddress {
    fn options(&self) -> &'static [&'static str] {
        match self {
            Self::Path(_) => &["mode", "user", "group", "backlog"],
            Self::Abstract(_) => &["backlog"],
        }
    }

    fn check(&self) -> Result<(), &'static str> {
        match self {
            Self::Path(path) => check_path(path),
            Self::Abstract(name) => check_name(name),
        }
    }

    fn addr(&self) -> Option<Addr> {
        Some(match self {
            Self::Path(path) => Addr::Unix(Some(path.as_path().into())),
            Self::Abstract(name) => Addr::Abstract(Arc::clone(name)),
        })
    }

    fn peers(&self) -> Option<Identified> {
        Some(match self {
            Self::Path(_) => Identified::ByPermission,
            Self::Abstract(_) => Identified::Never,
        })
    }

    fn open<'a>(&'a self, options: &'a SocketOptions, _: usize) -> Opening<'a> {
        Box::pin(async move {
            let opened = match self {
                Self::Path(path) => {
                    listener::open(path, options.system_backlog(), &options.access).await
                }
                Self::Abstract(_) => {
                    listener::open_abstract(&self.path(), options.system_backlog())
                }
            };
            Ok(vec![opened?])
        })
    }

    fn advice(&self, errno: i32) -> &'static str {
        match errno {
            libc::EADDRINUSE => "; another program listens there: stop it, or choose another name",
            libc::EACCES => {
                "; the user this runs as must be allowed to write in the directory of the path"
            }
            libc::EPERM => "; giving a file to another user takes root or CAP_CHOWN",
            libc::ENOENT => "; the directory of the path must exist",
            _ => "",
        }
    }
}

impl fmt::Display for UnixAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => Addr::Unix(Some(path.as_path().into())).fmt(f),
            Self::Abstract(name) => Addr::Abstract(Arc::clone(name)).fmt(f),
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
