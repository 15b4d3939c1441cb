//! The care for the path a Unix socket is bound to: who may have it, with which rights, and who removes it.

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

/// How long a server that starts waits for others in the same directory. Each holds it up for the time of a few system
/// calls; a process that locks a directory for longer isn't a server of this crate.
const LOCK_WAIT: Duration = Duration::from_millis(200);

/// How long it waits before it tries the lock again.
const LOCK_RETRY: Duration = Duration::from_millis(1);

/// Who may connect to a path: its mode, its user and its group. What is not given stays as the system makes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) mode: Option<u32>,
    /// A name or a number.
    pub(crate) user: Option<String>,
    /// A name or a number.
    pub(crate) group: Option<String>,
}

/// Keeps servers that start at the same moment apart: one finds a stale path, removes it, binds and listens, and only
/// then does the next look. Otherwise that one might remove what the first has just put in place of what it looked at.
///
/// The lock is on the directory, as the path itself comes and goes. It is a courtesy among servers: where it can't be had
/// (the directory is not readable, its file system has no locks, somebody keeps it) the server starts without it.
pub(super) async fn lock_directory(path: &Path) -> Option<File> {
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

/// Removes a socket file that no server listens on any more; anything else is left alone and an error.
pub(super) fn remove_stale(path: &Path, addr: &SockAddr) -> io::Result<()> {
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

pub(super) fn in_use(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::AddrInUse, text)
}

/// The file a socket is bound to. It goes with this value if it belongs to this process, and if no other file stands
/// there by then.
pub(crate) struct BoundPath {
    path: PathBuf,
    /// The same path, good even after a change of the working directory.
    absolute: PathBuf,
    id: (u64, u64),
    owned: bool,
}

impl BoundPath {
    /// The file a socket of this process was just bound to.
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        if !metadata.file_type().is_socket() {
            return Err(in_use("the path was replaced while binding"));
        }
        Ok(Self { path: path.to_owned(), absolute: std::path::absolute(path)?, id: id(&metadata), owned: true })
    }

    /// The file another process has bound and is about to hand over; that one's to remove until it is told otherwise.
    pub(crate) fn inherited(absolute: PathBuf, id: (u64, u64)) -> Self {
        Self { path: absolute.clone(), absolute, id, owned: false }
    }

    /// What another process needs to know it by.
    pub(crate) fn absolute(&self) -> &Path {
        &self.absolute
    }

    /// Its device and inode.
    pub(crate) fn id(&self) -> (u64, u64) {
        self.id
    }

    /// Whether it goes with this value.
    pub(crate) fn set_owned(&mut self, owned: bool) {
        self.owned = owned;
    }

    /// Gives the file its owner, then its mode. One that somebody has put in its place since is left alone.
    pub(crate) fn set_access(&self, access: &Access) -> io::Result<()> {
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
        // Changing a mode follows links, so it is done only where it is needed: where the umask has cut the mode.
        if fs::symlink_metadata(&self.path)?.mode() & 0o7777 == mode {
            return Ok(());
        }
        fs::set_permissions(&self.path, Permissions::from_mode(mode))
    }

    pub(super) fn is_ours(&self) -> bool {
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

/// What tells one file from another at the same path.
fn id(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn user_id(user: &str) -> io::Result<u32> {
    match user.parse() {
        Ok(number) => Ok(number),
        Err(_) => User::from_name(user)?.map(|user| user.uid.as_raw()).ok_or_else(|| unknown("user", user)),
    }
}

fn group_id(group: &str) -> io::Result<u32> {
    match group.parse() {
        Ok(number) => Ok(number),
        Err(_) => Group::from_name(group)?.map(|group| group.gid.as_raw()).ok_or_else(|| unknown("group", group)),
    }
}

fn unknown(what: &str, name: &str) -> io::Error {
    let text = format!("this system has no {what} {name:?}: name one it has, or write a number");
    io::Error::new(io::ErrorKind::NotFound, text)
}
