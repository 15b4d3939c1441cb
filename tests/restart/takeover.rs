//! Hot restart as a program sees it: a new process takes over, or the old one goes on as if nothing
//! had been.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ropewalk::server::{Restart, RestartError};
use ropewalk::{CloseReason, Server};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::sleep;
use tokio::time::timeout;

use crate::harness::{self, LONG, Running, ask, assert_reasons, expect, rest, shouter, until};
use crate::support::{self, TempDir};

/// Long enough for a new process on a busy machine; what is to fail for the time it takes gets
/// less.
const SOON: Duration = Duration::from_secs(20);

/// A new process that is a shell script of this name and text. The shell is what is started: a
/// script of one's own could be held open by any child that this process forks meanwhile, and
/// then it can't be started.
pub(super) fn script(dir: &TempDir, name: &str, text: &str) -> Restart {
    let path = dir.join(name);
    fs::write(&path, format!("echo $$ >>{}\n{text}\n", pids(dir).display())).unwrap();
    Restart::new().program("/bin/sh").args([path]).ready_within(SOON)
}

/// Where scripts leave their numbers.
fn pids(dir: &TempDir) -> PathBuf {
    dir.join("pids")
}

/// The numbers of the scripts that ran.
pub(super) fn ran(dir: &TempDir) -> Vec<i32> {
    let numbers = fs::read_to_string(pids(dir)).unwrap_or_default();
    numbers.lines().map(|line| line.parse().unwrap()).collect()
}

/// Whether there is such a process, a dead one that nobody has waited for included.
pub(super) fn is_there(pid: i32) -> bool {
    test_kill_process(Pid::from_raw(pid).unwrap()).is_ok()
}

/// The example that is to take over, on these endpoints.
fn echo(endpoints: &[&str]) -> Restart {
    let args = endpoints.iter().flat_map(|endpoint| ["--listen", endpoint]);
    Restart::new().program(support::command("echo").get_program()).args(args).ready_within(SOON)
}

/// A server that answers in capitals on a TCP and a Unix socket, and their endpoints.
pub(super) async fn shouting(
    dir: &TempDir,
    restart: impl FnOnce([&str; 2]) -> Restart,
) -> (Running, PathBuf) {
    let path = dir.join("x.sock");
    let endpoints = ["tcp:127.0.0.1:0".to_owned(), format!("unix:{}", path.display())];
    let restart = restart([&endpoints[0], &endpoints[1]]);
    let server = Server::new().listen(&endpoints[0]).listen(&endpoints[1]).hot_restart(restart);
    (Running::start(server.serve(shouter())).await, path)
}

/// The server is as it was: on both sockets.
async fn still_shouts(server: &Running, path: &Path) {
    ask(&mut server.connect().await, "a\n", "A\n").await;
    ask(&mut UnixStream::connect(path).await.unwrap(), "a\n", "A\n").await;
}

/// A new process that has taken over. Killed if the test fails.
struct Successor(i32);

impl Successor {
    /// Restarts the server.
    async fn of(server: &Running) -> Self {
        Self(i32::try_from(server.handle().restart().await.unwrap()).unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.0).unwrap(), signal).ok();
    }

    /// Tells it to end, and waits until it is gone.
    async fn end(self) {
        self.signal(Signal::TERM);
        until("the new process is gone", || !is_there(self.0)).await;
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

#[tokio::test]
async fn the_new_process_answers_on_the_same_sockets_and_the_old_one_drains() {
    let dir = TempDir::new();
    let (server, path) = shouting(&dir, |endpoints| echo(&endpoints)).await;
    let addr = server.tcp_addr(0);
    let mut idle = server.connect().await;
    ask(&mut idle, "old\n", "OLD\n").await;
    let mut busy = server.connect().await;
    ask(&mut busy, "old\nbegun", "OLD\n").await;
    let successor = Successor::of(&server).await;
    assert_eq!(rest(&mut idle).await, "");
    busy.write_all(b" and done\n").await.unwrap();
    assert_eq!(rest(&mut busy).await, "BEGUN AND DONE\n");
    drop((idle, busy));
    assert_reasons(&server.over().await, &[(CloseReason::Drained, 2)]);
    // The old process is gone, and the path with it neither: it is the new one's.
    ask(&mut TcpStream::connect(addr).await.unwrap(), "new\n", "new\n").await;
    ask(&mut UnixStream::connect(&path).await.unwrap(), "new\n", "new\n").await;
    successor.end().await;
    assert!(!path.exists(), "the new process has removed its path");
}

#[tokio::test]
async fn a_connection_made_a_moment_before_is_served_by_the_old_process() {
    let dir = TempDir::new();
    let (server, path) = shouting(&dir, |endpoints| echo(&endpoints)).await;
    let mut silent = server.connect().await;
    server.until("it is accepted", |counts| counts.active() == 1).await;
    let successor = Successor::of(&server).await;
    silent.write_all(b"hello\n").await.unwrap();
    assert_eq!(rest(&mut silent).await, "HELLO\n");
    drop(silent);
    server.over().await;
    successor.end().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn accepted_connections_that_wait_for_room_are_served_by_the_old_process() {
    let dir = TempDir::new();
    let path = dir.join("x.sock");
    let endpoint = format!("unix:{}", path.display());
    let restart = echo(&[&endpoint]);
    let server = Server::new().listen(&endpoint).max_connections(1).hot_restart(restart);
    let server = Running::start(server.serve(shouter())).await;
    let mut first = UnixStream::connect(&path).await.unwrap();
    ask(&mut first, "old\nbegun", "OLD\n").await;
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let mut client = UnixStream::connect(&path).await.unwrap();
        client.write_all(b"a\n").await.unwrap();
        waiting.push(client);
    }
    // They are taken from the backlog, as one of them may have a right to a place.
    harness::settle().await;
    let successor = Successor::of(&server).await;
    first.write_all(b" and done\n").await.unwrap();
    assert_eq!(rest(&mut first).await, "BEGUN AND DONE\n");
    drop(first);
    for client in &mut waiting {
        expect(client, "A\n").await;
        client.shutdown().await.unwrap();
    }
    drop(waiting);
    let handle = server.handle().clone();
    assert_reasons(&server.over().await, &[(CloseReason::Drained, 21)]);
    assert_eq!(handle.drain_report().unwrap().cut(), 0);
    successor.end().await;
}

#[tokio::test]
async fn a_new_process_that_fails_leaves_the_old_one_serving() {
    let dir = TempDir::new();
    for (name, text, said) in [
        ("crashes", "exit 3", "exit status: 3"),
        ("ends", "exit 0", "exit status: 0"),
        ("greets_and_crashes", "printf 'ropewalk-restart 3' >&0\nexit 4", "exit status: 4"),
        ("is_ready_and_crashes", "printf 'ropewalk-restart 3RTT' >&0\nexit 5", "exit status: 5"),
        (
            "is_of_another_version",
            "printf 'ropewalk-restart 9' >&0\nexec sleep 1000",
            "restart protocol",
        ),
        ("is_older", "printf 'ropewalk-restart 2' >&0\nexec sleep 1000", "restart protocol"),
        (
            "is_no_server",
            "echo some thing else altogether >&0\nexec sleep 1000",
            "restart protocol",
        ),
        ("says_nonsense", "printf 'ropewalk-restart 3X' >&0\nexec sleep 1000", "restart protocol"),
    ] {
        let program = script(&dir, name, text);
        let (server, path) = shouting(&dir, |_| program).await;
        let mut open = server.connect().await;
        ask(&mut open, "a\n", "A\n").await;
        let error = server.handle().restart().await.unwrap_err();
        assert!(error.to_string().contains(said), "{name}: {error}");
        ask(&mut open, "b\n", "B\n").await;
        still_shouts(&server, &path).await;
        drop(open);
        server.end().await;
        assert!(!path.exists(), "{name}: the path is the old process's again");
    }
    assert_eq!(ran(&dir).len(), 8);
    assert!(ran(&dir).into_iter().all(|pid| !is_there(pid)), "all are gone, and waited for");
}

#[tokio::test]
async fn a_new_process_that_hangs_is_killed_at_the_deadline() {
    let dir = TempDir::new();
    for (name, text) in [
        ("is_silent", "exec sleep 1000"),
        ("only_greets", "printf 'ropewalk-restart 3' >&0\nexec sleep 1000"),
        ("closes_its_input", "exec sleep 1000 </dev/null"),
    ] {
        let program = script(&dir, name, text);
        let within = Duration::from_millis(300);
        let (server, path) = shouting(&dir, |_| program.ready_within(within)).await;
        let error = server.handle().restart().await.unwrap_err();
        assert!(
            matches!(error, RestartError::NotReady { within: told } if told == within),
            "{name}: {error}"
        );
        still_shouts(&server, &path).await;
        server.end().await;
    }
    assert!(ran(&dir).into_iter().all(|pid| !is_there(pid)));
}

#[tokio::test]
async fn a_new_process_that_is_ready_and_does_not_begin_is_killed_and_the_paths_stay_the_old_ones()
{
    let dir = TempDir::new();
    let program = script(&dir, "hangs_late", "printf 'ropewalk-restart 3RTT' >&0\nexec sleep 1000");
    let (server, path) = shouting(&dir, |_| program.ready_within(Duration::from_millis(300))).await;
    let error = server.handle().restart().await.unwrap_err();
    assert!(error.to_string().contains("did not confirm that it begins"), "{error}");
    still_shouts(&server, &path).await;
    assert!(ran(&dir).into_iter().all(|pid| !is_there(pid)));
    server.end().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn while_a_new_process_does_not_begin_the_old_one_accepts_and_hears_that_it_is_to_end() {
    let dir = TempDir::new();
    let program =
        script(&dir, "never_begins", "printf 'ropewalk-restart 3RTT' >&0\nexec sleep 1000");
    let (server, path) = shouting(&dir, |_| program.ready_within(LONG)).await;
    let mut client = server.connect().await;
    ask(&mut client, "a\n", "A\n").await;
    let start = Instant::now();
    let handle = server.handle().clone();
    let restart = tokio::spawn(async move { handle.restart().await });
    until("the new process runs", || ran(&dir).len() == 1).await;
    // For as long as it may take to begin, and a while longer.
    while !restart.is_finished() {
        still_shouts(&server, &path).await;
        ask(&mut client, "b\n", "B\n").await;
        sleep(Duration::from_millis(20)).await;
    }
    let error = restart.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("did not confirm that it begins"), "{error}");
    assert!((5..9).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert!(ran(&dir).into_iter().all(|pid| !is_there(pid)));
    // And again, with an end in the middle of it.
    let handle = server.handle().clone();
    let restart = tokio::spawn(async move { handle.restart().await });
    until("the second one runs", || ran(&dir).len() == 2).await;
    sleep(Duration::from_millis(300)).await;
    let start = Instant::now();
    drop(client);
    server.end().await;
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert!(restart.await.unwrap().is_err());
    assert!(!path.exists(), "its path is its own again");
    let pid = ran(&dir)[1];
    until("the new process is gone", || !is_there(pid)).await;
}

#[tokio::test]
async fn an_endpoint_the_new_process_does_not_have_is_closed_and_its_path_removed() {
    let dir = TempDir::new();
    let (server, path) = shouting(&dir, |[tcp, _]| echo(&[tcp])).await;
    let addr = server.tcp_addr(0);
    let successor = Successor::of(&server).await;
    server.over().await;
    assert!(!path.exists());
    ask(&mut TcpStream::connect(addr).await.unwrap(), "new\n", "new\n").await;
    successor.end().await;
}

/// As with any other drain: nobody else would ever accept it.
#[tokio::test]
async fn a_connection_to_such_an_endpoint_is_served_by_the_old_process() {
    let dir = TempDir::new();
    let (go, said) = (dir.join("go"), dir.join("said"));
    let text = format!(
        "while [ ! -e {} ]; do sleep 0.01; done\nprintf 'ropewalk-restart 3RTLA' >&0\ntouch {}\nexec sleep 1000",
        go.display(),
        said.display(),
    );
    let program = script(&dir, "has_one_endpoint_less", &text);
    let (server, path) = shouting(&dir, |_| program).await;
    let handle = server.handle().clone();
    let restart = tokio::spawn(async move { handle.restart().await });
    until("the new process runs", || ran(&dir).len() == 1).await;
    fs::write(&go, "").unwrap();
    // Without a turn for the server: when it gets one, the new process has said all it has to say.
    support::until("the new process has spoken", || said.exists());
    let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
    std::io::Write::write_all(&mut client, b"hello\n").unwrap();
    let _successor = Successor(i32::try_from(restart.await.unwrap().unwrap()).unwrap());
    client.set_nonblocking(true).unwrap();
    let mut client = UnixStream::from_std(client).unwrap();
    assert_eq!(timeout(SOON, rest(&mut client)).await.expect("it is served"), "HELLO\n");
    server.over().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_new_process_that_can_not_bind_leaves_the_path_it_was_handed() {
    let dir = TempDir::new();
    let (server, path) =
        shouting(&dir, |[tcp, unix]| echo(&[tcp, unix, "unix:/no/such/directory/x"])).await;
    let error = server.handle().restart().await.unwrap_err();
    assert!(matches!(error, RestartError::Exited { .. }), "{error}");
    still_shouts(&server, &path).await;
    server.end().await;
}

#[tokio::test]
async fn a_file_somebody_put_in_the_place_of_a_path_keeps_its_mode_over_a_restart() {
    let dir = TempDir::new();
    let (server, path) =
        shouting(&dir, |[tcp, unix]| echo(&[tcp, &format!("{unix}?mode=600")])).await;
    fs::remove_file(&path).unwrap();
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let successor = Successor::of(&server).await;
    server.over().await;
    successor.end().await;
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
}

#[tokio::test]
async fn a_failed_restart_can_be_tried_again() {
    let dir = TempDir::new();
    let flag = dir.join("second");
    let example = support::command("echo").get_program().to_owned();
    let text = format!(
        "[ -e {0} ] || {{ touch {0}; exit 1; }}\nexec {1} \"$@\"",
        flag.display(),
        example.display()
    );
    let (server, _path) = shouting(&dir, |[tcp, unix]| {
        let path = dir.join("better_the_second_time");
        script(&dir, "better_the_second_time", &text).args([
            path.to_str().unwrap(),
            "--listen",
            tcp,
            "--listen",
            unix,
        ])
    })
    .await;
    assert!(matches!(server.handle().restart().await, Err(RestartError::Exited { .. })));
    let successor = Successor::of(&server).await;
    server.over().await;
    successor.end().await;
}
