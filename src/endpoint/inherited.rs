//! `systemd:NAME`, `systemd:0` and `fd:3`: sockets that were open when this process began.

use std::collections::BTreeSet;
use std::env;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::process;
use std::sync::{Mutex, OnceLock, PoisonError};

use filedescriptor::FileDescriptor;

use super::input::Input;
use super::options::SocketOptions;
use super::passed::{Mistake, check_name, find, misdirected};
use super::scheme::{Identified, Opening, Scheme};
use super::{Endpoint, EndpointError, Kind, watcher};
use crate::listener::opened::{self, OpenSocket};

/// The descriptors that were taken. Their numbers may belong to other files by now, so no number is
/// taken twice.
static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// Which of the sockets this process inherited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Inherited {
    /// The name, or the index in digits, of a socket that the service manager passed.
    Systemd(String),
    /// Any other socket, by its descriptor number.
    Fd(RawFd),
}

impl Endpoint {
    /// A socket opened by the service manager: by its name (`FileDescriptorName=` in a socket
    /// unit), or by its index in digits, from 0.
    pub fn systemd(name: impl Into<String>) -> Self {
        Kind::Inherited(Inherited::Systemd(name.into())).into()
    }

    /// A listening socket that this process inherited as this descriptor number, from 3.
    pub fn fd(number: u16) -> Self {
        Kind::Inherited(Inherited::Fd(number.into())).into()
    }
}

impl Inherited {
    /// Parses what follows `systemd:` or `fd:`.
    pub(super) fn parse(input: Input<'_>, scheme: &str, text: &str) -> Result<Self, EndpointError> {
        let parsed = match scheme {
            "fd" => Self::parse_fd(text),
            _ => check_name(text).map(|()| Self::Systemd(text.to_owned())),
        };
        parsed.map_err(|(problem, fix)| input.error(problem, fix))
    }

    fn parse_fd(number: &str) -> Result<Self, Mistake> {
        let fix = "write a number from 3 to 65535, such as fd:3";
        let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        match number.parse::<u16>() {
            Ok(n) if digits && n.to_string() == number => {
                check_fd(n.into()).map(|()| Self::Fd(n.into()))
            }
            _ if number.is_empty() => Err(("there is no number".to_owned(), fix)),
            _ => Err((format!("{number:?} is not the number of a descriptor"), fix)),
        }
    }

    /// Takes ownership of the socket. A descriptor that is refused is left unchanged.
    fn take(&self) -> io::Result<OwnedFd> {
        let refuse = |(problem, fix): Mistake| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{problem}: {fix}"))
        };
        // Held to the end, so that a second caller finds the number taken.
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let number = match self {
            Self::Systemd(name) => {
                check_name(name).map_err(refuse)?;
                find(name, passed()?)
                    .map_err(|text| io::Error::new(io::ErrorKind::NotFound, text))?
            }
            Self::Fd(number) => {
                check_fd(*number).map_err(refuse)?;
                *number
            }
        };
        if taken.contains(&number) {
            let text = format!("descriptor {number} was bound before, and can be bound once");
            return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
        }
        if matches!(self, Self::Fd(_)) && !is_passed(number) && is_our_own(number) {
            let text =
                format!("descriptor {number} was not inherited: this process has opened it itself");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let socket = own(number)?;
        taken.insert(number);
        Ok(socket)
    }
}

impl Scheme for Inherited {
    fn options(&self) -> &'static [&'static str] {
        &[]
    }

    fn peers(&self) -> Option<Identified> {
        None
    }

    fn open<'a>(&'a self, _: &'a SocketOptions, _: usize) -> Opening<'a> {
        Box::pin(async move {
            let opened = OpenSocket { path: None, socket: self.take()? };
            opened.prepare(None)?;
            Ok(vec![opened])
        })
    }
}

impl fmt::Display for Inherited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Systemd(name) => write!(f, "systemd:{name}"),
            Self::Fd(number) => write!(f, "fd:{number}"),
        }
    }
}

fn check_fd(number: RawFd) -> Result<(), Mistake> {
    let fix = "the first that can be inherited is fd:3";
    if number < 3 {
        Err((format!("{number} is standard input, output or error"), fix))
    } else {
        Ok(())
    }
}

/// The numbers and names of what the service manager passed to this process and to no other. All
/// are closed on exec from here on, including those that are never bound. Looked up once: later a
/// number may belong to another file, and the variables are removed so that child processes don't
/// see them. (`LISTEN_PIDFDID`, of newer managers, stays; it has no meaning without the others.)
fn passed() -> io::Result<&'static [(RawFd, String)]> {
    static PASSED: OnceLock<Result<Vec<(RawFd, String)>, String>> = OnceLock::new();
    // This version is from before `unset_env` became an unsafe function; the documentation of
    // `Endpoint` explains the problem.
    let unset_env = true;
    let passed = PASSED.get_or_init(|| {
        // Read before the variables are removed.
        let is_set = env::var_os("LISTEN_FDS").is_some();
        let misdirected = is_set
            .then(|| misdirected(env::var_os("LISTEN_PID").as_deref(), process::id()))
            .flatten();
        match (misdirected, sd_notify::listen_fds_with_names(unset_env)) {
            (Some(text), _) => Err(text),
            (None, Ok(passed)) => Ok(passed.collect()),
            (None, Err(error)) => Err(format!("LISTEN_FDS or LISTEN_FDNAMES is invalid ({error})")),
        }
    });
    passed.as_deref().map_err(|text| io::Error::new(io::ErrorKind::InvalidInput, text.as_str()))
}

fn is_passed(number: RawFd) -> bool {
    passed().is_ok_and(|passed| passed.iter().any(|&(n, _)| n == number))
}

/// Whether this process has opened it: an inherited descriptor can't have the close-on-exec flag.
fn is_our_own(number: RawFd) -> bool {
    let flags = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
    let flags = flags.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & libc::O_CLOEXEC != 0)
}

/// Takes a listening socket of which only the number is known. It is duplicated, because a type
/// that owns a descriptor can't be made from a number without unsafe code. The number itself is
/// closed, or the socket would outlive its listener.
fn own(number: RawFd) -> io::Result<OwnedFd> {
    let closed =
        |_| io::Error::new(io::ErrorKind::NotFound, format!("descriptor {number} is not open"));
    let socket = FileDescriptor::dup(&number).map_err(closed)?.as_fd().try_clone_to_owned()?;
    watcher(opened::check(&socket)?)?;
    nix::unistd::close(number)?;
    Ok(socket)
}
