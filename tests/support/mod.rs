//! An example as a child process on a TCP and a Unix endpoint at once, and blocking clients for it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // each test file uses its part of it

mod client;

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write, stderr};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::Builder;

#[allow(unused_imports)] // each test file uses its part of it
pub use self::client::{Client, acknowledged};

/// How long anything may take before the test fails. Far more than it ever should.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks again and again until it is so; fails when it never is.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A program of another package; where it is missing the test is told as skipped. `.ci/install`
/// installs them.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Servers may lie where only root's path leads.
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let found = folders.map(|folder| folder.join(name)).find(|path| path.exists());
    if found.is_none() {
        skipped(&format!("no {name}"));
    }
    found
}

/// Says why a test tests nothing here, past the capture of its output: `.ci/run` counts these
/// lines.
pub fn skipped(why: &str) {
    // In one piece, or the line of another test may come between.
    stderr().write_all(format!("skipped: {why}\n").as_bytes()).unwrap();
}

/// A directory that goes with this value. Any user may enter it: some examples change theirs.
pub struct TempDir(tempfile::TempDir);

impl TempDir {
    pub fn new() -> Self {
        Self(
            Builder::new()
                .prefix("ropewalk-")
                .permissions(Permissions::from_mode(0o755))
                .tempdir()
                .unwrap(),
        )
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// Where cargo puts an example: beside the directory the tests are in.
fn binary(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.parent().and_then(Path::parent).unwrap().join("examples").join(name);
    assert!(
        path.exists(),
        "{} is not built. `cargo test` builds the examples, `cargo test --test NAME` does not: run `cargo build \
         --examples` first",
        path.display()
    );
    path
}

/// The name of a test as its program knows it, from the path of its module: that begins with the
/// program's own name.
pub fn test(module: &str, name: &str) -> String {
    let (_, module) = module.split_once("::").unwrap();
    format!("{module}::{name}")
}

/// The command that runs an example, with nothing on its command line yet.
pub fn command(name: &str) -> Command {
    Command::new(binary(name))
}

/// A running example; killed when this is dropped.
pub struct Example {
    child: Child,
    lines: Mutex<Receiver<String>>,
    /// Where the endpoint of its own listens, if it was started with one.
    pub first: SocketAddr,
    pub tcp: SocketAddr,
    pub unix: PathBuf,
    pub dir: TempDir,
}

impl Example {
    pub fn start(name: &str) -> Self {
        Self::start_with(name, &[] as &[&str])
    }

    pub fn start_with(name: &str, args: &[impl AsRef<OsStr>]) -> Self {
        let mut command = command(name);
        command.args(args);
        Self::spawn(command, TempDir::new())
    }

    /// Adds two endpoints to the command, runs it and waits until it listens.
    pub fn spawn(command: Command, dir: TempDir) -> Self {
        let mut example = Self::begin(command, dir);
        example.await_both();
        example
    }

    /// The same for a command that has a TCP endpoint of its own before them.
    pub fn spawn_behind(command: Command, dir: TempDir) -> Self {
        let mut example = Self::begin(command, dir);
        example.first = example.listening();
        example.await_both();
        example
    }

    fn begin(mut command: Command, dir: TempDir) -> Self {
        let unix = dir.join("x.sock");
        command
            .args(["--listen", "tcp:127.0.0.1:0", "--listen"])
            .arg(format!("unix:{}", unix.display()));
        // Its log is not tested.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = Mutex::new(lines_of(child.stderr.take().unwrap()));
        let unknown = SocketAddr::from(([0; 4], 0));
        Self { child, lines, first: unknown, tcp: unknown, unix, dir }
    }

    fn await_both(&mut self) {
        self.tcp = self.listening();
        // With TLS it is `tls+unix:`.
        let line = self.line().replacen("tls+", "", 1);
        assert_eq!(line, format!("listening on unix:{}", self.unix.display()));
    }

    /// The address in the next line.
    fn listening(&self) -> SocketAddr {
        let line = self.line();
        let address = line
            .strip_prefix("listening on tcp:")
            .or_else(|| line.strip_prefix("listening on tls:"));
        let address = address.and_then(|address| address.parse().ok());
        address.unwrap_or_else(|| panic!("a TCP address is announced, not {line:?}"))
    }

    /// The next line of its standard error.
    pub fn line(&self) -> String {
        self.lines.lock().unwrap().recv_timeout(PATIENCE).expect("a line on standard error")
    }

    /// All that is left of its standard error, once it has ended.
    pub fn last_words(&self) -> String {
        let mut words = String::new();
        loop {
            match self.lines.lock().unwrap().recv_timeout(PATIENCE) {
                Ok(line) => words += &format!("{line}\n"),
                Err(RecvTimeoutError::Disconnected) => return words,
                Err(RecvTimeoutError::Timeout) => panic!("standard error stays open"),
            }
        }
    }

    pub fn tcp(&self) -> Client {
        Client::tcp(self.tcp)
    }

    pub fn unix(&self) -> Client {
        Client::unix(&self.unix)
    }

    /// A client of either endpoint.
    pub fn both(&self) -> [Client; 2] {
        [self.tcp(), self.unix()]
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Tells it to end, with all that `meanwhile` sends still unread in the kernel: it stands still
    /// until then.
    pub fn terminate_before_it_reads(&self, meanwhile: impl FnOnce()) {
        self.signal(Signal::STOP);
        meanwhile();
        self.terminate();
        self.signal(Signal::CONT);
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid().as_raw_nonzero())).unwrap().count()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self) -> ExitStatus {
        until("the example ends", || self.has_ended());
        self.child.wait().unwrap()
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Reads on in a thread of its own, so that the child never waits for us.
fn lines_of(stderr: ChildStderr) -> Receiver<String> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines() {
            if line.is_err() || line.is_ok_and(|line| sender.send(line).is_err()) {
                break;
            }
        }
    });
    lines
}

/// Runs a command that is to end at once, and returns how it ended and its standard error.
pub fn run(mut command: Command) -> (ExitStatus, String) {
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut ended = None;
    until("the command ends", || {
        ended = child.try_wait().unwrap();
        ended.is_some()
    });
    let mut words = String::new();
    child.stderr.take().unwrap().read_to_string(&mut words).unwrap();
    (ended.unwrap(), words)
}

/// Numbers that look random and are the same in every run.
pub struct Dice(u64);

impl Dice {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// From 1 to `sides`.
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides + 1
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| u8::try_from(self.roll(256) - 1).unwrap()).collect()
    }
}

/// The bytes whole, one at a time, and cut at random in a few ways.
pub fn segmentations(bytes: &[u8]) -> Vec<Vec<&[u8]>> {
    let mut all = vec![vec![bytes], bytes.chunks(1).collect()];
    for seed in 0..8 {
        let mut dice = Dice::new(seed);
        let (mut left, mut pieces) = (bytes, Vec::new());
        while !left.is_empty() {
            let (piece, rest) = left.split_at(dice.roll(9).min(left.len()));
            pieces.push(piece);
            left = rest;
        }
        all.push(pieces);
    }
    all
}
