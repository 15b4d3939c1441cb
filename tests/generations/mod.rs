//! An example and the processes that take over from it, one after the other.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // each test file uses its part of it

use std::ffi::OsStr;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, waitpid,
};

use crate::support::{self, TempDir, until};

/// An example that was started through a symbolic link, and the processes that took over since. All end
/// with this value.
pub struct Generations {
    /// The first; the later ones are children of one another.
    child: Child,
    current: Pid,
    pub link: PathBuf,
    pub tcp: SocketAddr,
    pub unix: PathBuf,
    pub dir: TempDir,
}

impl Generations {
    /// Starts an example on a TCP and a Unix socket; `prepare` adds to its command.
    pub fn start(name: &str, prepare: impl FnOnce(&mut Command, &TempDir)) -> Self {
        // The new process becomes a child of this one when its parent ends, so that it can be waited
        // for.
        set_child_subreaper(Some(getpid())).unwrap();
        let dir = TempDir::new();
        let (link, unix) = (dir.join("server"), dir.join("x.sock"));
        symlink(support::command(name).get_program(), &link).unwrap();
        let tcp = free_port();
        let mut command = Command::new(&link);
        command.args([
            "--listen",
            &format!("tcp:{tcp}"),
            "--listen",
            &format!("unix:{}", unix.display()),
        ]);
        prepare(&mut command, &dir);
        let child = command.stdin(Stdio::null()).spawn().unwrap();
        let current = Pid::from_child(&child);
        let this = Self { child, current, link, tcp, unix, dir };
        // A path is there before anybody listens on it.
        until("the example listens", || {
            support::Client::try_tcp(this.tcp).is_ok() && UnixStream::connect(&this.unix).is_ok()
        });
        this
    }

    pub fn pid(&self) -> Pid {
        self.current
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.current, signal).unwrap();
    }

    /// The processes of this example that run, in no order.
    pub fn processes(&self) -> Vec<Pid> {
        let ours = |pid: &Pid| {
            let pid = pid.as_raw_nonzero();
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let path = self.unix.as_os_str().as_bytes();
            // Between its start and the first words of the program it still is a copy of its
            // parent.
            arguments.windows(path.len()).any(|window| window == path)
                && state(pid.get()) != Some('Z')
        };
        let number = |name: &OsStr| name.to_str()?.parse().ok().and_then(Pid::from_raw);
        fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| number(&entry.file_name()))
            .filter(ours)
            .collect()
    }

    /// Has a new process take over, and waits until it is the only one. Returns the old one's
    /// number.
    pub fn restart(&mut self) -> Pid {
        self.restart_with(|| {})
    }

    /// The same, with something to do once the new process has taken over.
    pub fn restart_with(&mut self, meanwhile: impl FnOnce()) -> Pid {
        let old = self.current;
        self.signal(Signal::USR2);
        let mut new = None;
        until("a new process has taken over", || {
            new = self.processes().into_iter().find(|&pid| pid != old);
            new.is_some() && listening(old) == 0
        });
        meanwhile();
        let status = self.reap(old);
        assert_eq!(status, Some(0), "the old process ends with success");
        self.current = new.unwrap();
        old
    }

    /// Waits for a process to end; the code it ended with, if with one.
    pub fn reap(&mut self, pid: Pid) -> Option<i32> {
        let mut code = None;
        until("the process ends", || {
            // One with a parent that lives is not ours yet.
            let Ok(Some((_, status))) = waitpid(Some(pid), WaitOptions::NOHANG) else {
                return false;
            };
            code = status.exit_status();
            true
        });
        code
    }

    /// Tells the current process to end, and waits for it; the code it ended with.
    pub fn end(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.reap(self.current)
    }
}

impl Drop for Generations {
    fn drop(&mut self) {
        for pid in self.processes() {
            kill_process(pid, Signal::KILL).ok();
        }
    }
}

/// A port nobody listens on, on a loopback address of this example's own: no client takes it for
/// itself meanwhile.
pub fn free_port() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, high.max(1), low, NEXT.fetch_add(1, Ordering::Relaxed));
    TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap()
}

/// How a process is: `R`, `S`, `Z` and so on.
fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// How many listening TCP sockets a process has.
fn listening(pid: Pid) -> usize {
    let pid = pid.as_raw_nonzero();
    // sl local_address rem_address st … inode, with 0A for one that listens.
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
    let inodes: Vec<String> =
        rows.filter(|row| row[3] == "0A").map(|row| format!("socket:[{}]", row[9])).collect();
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let links = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    links.filter(|link| inodes.iter().any(|inode| Path::new(inode) == link)).count()
}
