//! The path of a Unix socket: locking, permissions and removal.

use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{Group, User};
use ropewalk_middleware::event::aside;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::time::{Instant, sleep};

/// How long a starting server waits for others in the same directory. Each of them holds the lock
/// for a few system calls; a process that holds it for longer isn't a server of this crate.
const LOCK_WAIT: Duration = Duration::from_millis(200);

/// How long it waits before it tries the lock again.
const LOCK_RETRY: Duration = Duration::from_millis(1);

/// The permissions of a path: its mode, user and group. Those that are `None` stay as the system
/// sets them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PathAccess {
    pub(crate) mode: Option<u32>,
    /// A name or a number.
    pub(crate) user: Option<String>,
    /// A name or a number.
    pub(crate) group: Option<String>,
}

/// Serializes servers that start at the same moment: the next one checks the path only after the
/// first has found it stale, removed it, bound its socket and listens. Otherwise the second might
/// remove the socket that the first has just bound.
///
/// The lock is on the directory, because the path itself is removed and created. It is advisory: if
/// it can't be taken (the directory is not readable, its file system has no locks, another process
/// holds it), the server starts without it.
pub(crate) async fn lock_directory(path: &Path) -> Option<File> {
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
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

/// Removes a socket file on which no server listens any more. Any other file is left alone, and is
/// an error.
pub(crate) fn remove_stale(path: &Path, addr: &SockAddr) -> io::Result<()> {
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
            "a file that is not a socket"
        };
        return Err(in_use(&format!(
            "there is {what} at the path already; it is left alone, so choose another path"
        )));
    }
    // Non-blocking, because a connect to a live server with a full backlog would wait.
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    match probe.connect(addr) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Ok(()) => {
            return Err(in_use(
                "a live server listens there; stop it first, or choose another path",
            ));
        }
        Err(error) => {
            let text = format!(
                "it is unknown whether the socket there is stale ({error}), so it is left alone"
            );
            return Err(in_use(&text));
        }
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub(crate) fn in_use(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::AddrInUse, text)
}

/// The file that a socket is bound to. It is removed when this value is dropped, if this process
/// owns it and the path still has the same file.
pub(crate) struct BoundPath {
    path: PathBuf,
    /// The absolute path, which is valid even after a change of the working directory.
    absolute: PathBuf,
    id: (u64, u64),
    owned: bool,
}

impl BoundPath {
    /// The file to which a socket of this process was just bound.
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        if !metadata.file_type().is_socket() {
            return Err(in_use("the path was replaced while binding"));
        }
        Ok(Self {
            path: path.to_owned(),
            absolute: std::path::absolute(path)?,
            id: id(&metadata),
            owned: true,
        })
    }

    /// The file that another process has bound and is about to hand over. That process owns it
    /// until [`set_owned`](Self::set_owned).
    pub(crate) fn inherited(absolute: PathBuf, id: (u64, u64)) -> Self {
        Self { path: absolute.clone(), absolute, id, owned: false }
    }

    /// The path for another process, which may have another working directory.
    pub(crate) fn absolute(&self) -> &Path {
        &self.absolute
    }

    /// Its device and inode.
    pub(crate) fn id(&self) -> (u64, u64) {
        self.id
    }

    /// Sets whether it is removed with this value.
    pub(crate) fn set_owned(&mut self, owned: bool) {
        self.owned = owned;
    }

    /// Sets the owner of the file, then its mode. A file that has replaced it is left alone.
    pub(crate) fn set_access(&self, access: &PathAccess) -> io::Result<()> {
        if !self.is_ours() {
            return Ok(());
        }
        let user = access.user.as_deref().map(user_id).transpose()?;
        let group = access.group.as_deref().map(group_id).transpose()?;
        if user.is_some() || group.is_some() {
            lchown(&self.path, user, group)?;
        }
        access.mode.map_or(Ok(()), |mode| self.set_mode(mode))
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        // Changing a mode follows links, so it is done only if needed: if the umask has reduced the
        // mode.
        if fs::symlink_metadata(&self.path)?.mode() & 0o7777 == mode {
            return Ok(());
        }
        fs::set_permissions(&self.path, Permissions::from_mode(mode))
    }

    pub(crate) fn is_ours(&self) -> bool {
        fs::symlink_metadata(&self.absolute).is_ok_and(|metadata| id(&metadata) == self.id)
    }
}

impl Drop for BoundPath {
    fn drop(&mut self) {
        if self.owned
            && self.is_ours()
            && let Err(error) = fs::remove_file(&self.absolute)
        {
            let path = self.absolute.display().to_string();
            aside!(WARN, %path, %error, "the socket's path could not be removed");
        }
    }
}

/// Identifies a file, also against another one at the same path.
fn id(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn user_id(user: &str) -> io::Result<u32> {
    match user.parse() {
        Ok(number) => Ok(number),
        Err(_) => User::from_name(user)?
            .map(|user| user.uid.as_raw())
            .ok_or_else(|| unknown("user", user)),
    }
}

fn group_id(group: &str) -> io::Result<u32> {
    match group.parse() {
        Ok(number) => Ok(number),
        Err(_) => Group::from_name(group)?
            .map(|group| group.gid.as_raw())
            .ok_or_else(|| unknown("group", group)),
    }
}

fn unknown(what: &str, name: &str) -> io::Error {
    let text = format!("this system has no {what} {name:?}: name one it has, or write a number");
    io::Error::new(io::ErrorKind::NotFound, text)
}
