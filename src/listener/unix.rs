//! The Unix socket listener, and the care for the path it is bound to.

use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ropewalk_middleware::{Addr, Credentials, Peer, Stream};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use tokio::time::{Instant, sleep};

use super::paced::{Accept, Paced};

/// How long a server that starts waits for others in the same directory. Each holds it up for the time of a few system
/// calls; whoever locks a directory for longer is no server of ours.
const LOCK_WAIT: Duration = Duration::from_millis(200);

/// How long it waits before it tries the lock again.
const LOCK_RETRY: Duration = Duration::from_millis(1);

/// A bound Unix socket.
pub(crate) struct Unix {
    // Dropped first: while the socket is open no other file can be given its inode number, so the path can be told.
    path: Bound,
    socket: tokio::net::UnixListener,
}

/// Binds to a path and listens. The path is not reachable before it has its mode.
pub(crate) async fn bind(path: &Path, backlog: i32, mode: Option<u32>) -> io::Result<Paced<Unix>> {
    let addr = SockAddr::unix(path)?;
    // Kept until the socket listens: before that a live socket looks like a stale one.
    let _lock = lock_directory(path).await;
    let mut socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    if let Some(mode) = mode {
        socket = with_mode(socket, mode);
    }
    match socket.bind(&addr) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            remove_stale(path, &addr)?;
            socket.bind(&addr)?;
        }
        bound => bound?,
    }
    // From here on whatever fails takes the path away again.
    let bound = Bound::new(path)?;
    if let Some(mode) = mode {
        bound.set_mode(mode)?;
    }
    socket.listen(backlog)?;
    if !bound.is_ours() {
        // Another server started at the same moment and could not lock the directory. It found a socket nobody listened
        // on yet, and took the path.
        return Err(in_use("another server took the path over while this one started"));
    }
    let socket = tokio::net::UnixListener::from_std(OwnedFd::from(socket).into())?;
    Ok(Paced::new(Unix { path: bound, socket }))
}

/// Keeps servers that start at the same moment apart: one finds a stale path, removes it, binds and listens, and only
/// then does the next look. Otherwise that one might remove what the first has just put in place of what it looked at.
///
/// The lock is on the directory, as the path itself comes and goes. It is a courtesy among servers: where it can't be had
/// (the directory is not readable, its file system has no locks, somebody keeps it) the server starts without it.
async fn lock_directory(path: &Path) -> Option<File> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let directory = File::open(directory).ok()?;
    let begun = Instant::now();
    loop {
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(directory),
            Err(Errno::WOULDBLOCK) if begun.elapsed() < LOCK_WAIT => sleep(LOCK_RETRY).await,
            Err(_) => return None,
        }
    }
}

/// The same socket with a mode of its own, which Linux gives to the path it binds, cut by the umask: so the path is at
/// no moment open wider than asked for. Elsewhere this fails or does nothing, and only the mode set after binding counts.
fn with_mode(socket: Socket, mode: u32) -> Socket {
    let file = File::from(OwnedFd::from(socket));
    drop(file.set_permissions(Permissions::from_mode(mode)));
    OwnedFd::from(file).into()
}

/// Removes a socket file that no server listens on any more; anything else is left alone and an error.
fn remove_stale(path: &Path, addr: &SockAddr) -> io::Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        // Its server has just removed it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !kind.is_socket() {
        let what = if kind.is_symlink() {
            "a symbolic link"
        } else if kind.is_dir() {
            "a directory"
        } else {
            "a file that is no socket"
        };
        return Err(in_use(&format!("there is {what} at the path already; it is left alone, so choose another path")));
    }
    // Without blocking, because a live server with a full backlog would hold us up.
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    match probe.connect(addr) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Ok(()) => return Err(in_use("a live server listens there; stop it first, or choose another path")),
        Err(error) => {
            let text = format!("the socket there can't be told to be stale ({error}), so it is left alone");
            return Err(in_use(&text));
        }
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn in_use(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::AddrInUse, text)
}

/// The file a socket was bound to; it goes with this value, unless another file stands there by then.
struct Bound {
    path: PathBuf,
    /// The same path, good even after a change of the working directory.
    absolute: PathBuf,
    id: (u64, u64),
}

impl Bound {
    fn new(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        if !metadata.file_type().is_socket() {
            return Err(in_use("the path was replaced while binding"));
        }
        Ok(Self { path: path.to_owned(), absolute: std::path::absolute(path)?, id: id(&metadata) })
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        // Changing a mode follows links, so it is done only where it is needed: where the umask has cut the mode.
        if fs::symlink_metadata(&self.path)?.mode() & 0o7777 == mode {
            return Ok(());
        }
        fs::set_permissions(&self.path, Permissions::from_mode(mode))
    }

    fn is_ours(&self) -> bool {
        fs::symlink_metadata(&self.absolute).is_ok_and(|metadata| id(&metadata) == self.id)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if self.is_ours()
            && let Err(error) = fs::remove_file(&self.absolute)
        {
            tracing::warn!(path = %self.absolute.display(), %error, "the socket's path could not be removed");
        }
    }
}

/// What tells one file from another at the same path.
fn id(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn with_peer(stream: tokio::net::UnixStream, addr: Addr) -> (Stream, Peer) {
    let peer = Peer::new(addr);
    // Without credentials it is a connection still; who needs them asks for them.
    let peer = match stream.peer_cred() {
        Ok(cred) => peer.with_credentials(Credentials::from(cred)),
        Err(_) => peer,
    };
    (stream.into(), peer)
}

impl Accept for Unix {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, Peer)>> {
        let (stream, addr) = ready!(self.socket.poll_accept(cx))?;
        Poll::Ready(Ok(with_peer(stream, addr.into())))
    }

    fn accept_now(&mut self) -> io::Result<(Stream, Peer)> {
        let (socket, addr) = SockRef::from(&self.socket).accept()?;
        socket.set_nonblocking(true)?;
        let stream = tokio::net::UnixStream::from_std(OwnedFd::from(socket).into())?;
        Ok(with_peer(stream, Addr::Unix(addr.as_pathname().map(Into::into))))
    }

    fn local_addr(&self) -> Addr {
        Addr::Unix(Some(self.path.path.as_path().into()))
    }
}
