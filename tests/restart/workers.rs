//! Hot restart of a server with workers: the new process serves all their sockets, with as many
//! workers as it likes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use futures::future::join_all;
use ropewalk::Server;
use ropewalk::server::Restart;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::harness::{Running, rest, until};
use crate::staffed::{self, Blocker, ENOUGH, say, say_to};
use crate::support::{self, TempDir};

/// Long enough for a new process on a busy machine, and for anything else here.
const SOON: Duration = Duration::from_secs(20);

/// A server that answers in capitals, and is followed by one that answers with what it was sent.
struct Old {
    server: Running,
    blocker: Blocker,
    path: PathBuf,
    _dir: TempDir,
}

impl Old {
    /// With so many workers, if any; the new process gets these arguments.
    async fn start(workers: Option<usize>, arguments: &[&str]) -> Self {
        Self::followed_by(workers, |endpoints| {
            let listen = endpoints.iter().flat_map(|endpoint| ["--listen", endpoint]);
            let arguments = listen.chain(arguments.iter().copied());
            Restart::new()
                .program(support::command("echo").get_program())
                .args(arguments)
                .ready_within(SOON)
        })
        .await
    }

    /// With three workers, followed by a process that says this and does nothing: of three sockets
    /// of the first endpoint, one of the second and three each of the others.
    async fn followed_by_words(words: &str, within: Duration) -> Self {
        let script = format!("printf 'ropewalk-restart 3{words}' >&0\nexec sleep 1000");
        let restart = Restart::new().program("/bin/sh").args(["-c", &script]).ready_within(within);
        Self::followed_by(Some(3), |_| restart).await
    }

    async fn followed_by(
        workers: Option<usize>,
        restart: impl FnOnce([&str; 3]) -> Restart,
    ) -> Self {
        let dir = TempDir::new();
        let path = dir.join("x.sock");
        // Two endpoints by one name: the sockets of either are its own.
        let unix = format!("unix:{}", path.display());
        let endpoints = ["tcp:127.0.0.1:0", &unix, "tcp:127.0.0.1:0"];
        let restart = restart(endpoints);
        let server = endpoints.into_iter().fold(Server::new().hot_restart(restart), Server::listen);
        // The new process does without this one.
        let server = server.listen("tcp:[::1]:0");
        let (service, blocker) = staffed::service();
        let server = workers.into_iter().fold(server, Server::workers).serve(service);
        Self { server: Running::start(server).await, blocker, path, _dir: dir }
    }

    async fn restart(&self) -> New {
        let pid = timeout(SOON, self.server.handle().restart()).await.unwrap().unwrap();
        let tcp = [0, 2].map(|n| self.server.tcp_addr(n));
        New { pid: Pid::from_raw(pid.try_into().unwrap()).unwrap(), tcp, path: self.path.clone() }
    }
}

/// The process that has taken over. Killed if the test fails.
struct New {
    pid: Pid,
    tcp: [SocketAddr; 2],
    path: PathBuf,
}

impl New {
    /// It answers on all of its sockets, and takes the path with it when it ends.
    async fn serves_and_ends(self) {
        for addr in self.tcp {
            let each = (0..ENOUGH)
                .map(|_| async { echoed(TcpStream::connect(addr).await.unwrap()).await });
            assert_eq!(join_all(each).await, vec!["hello\n"; ENOUGH]);
        }
        assert_eq!(echoed(UnixStream::connect(&self.path).await.unwrap()).await, "hello\n");
        kill_process(self.pid, Signal::TERM).unwrap();
        until("the new process is gone", || test_kill_process(self.pid).is_err()).await;
        assert!(!self.path.exists());
    }
}

impl Drop for New {
    fn drop(&mut self) {
        kill_process(self.pid, Signal::KILL).ok();
    }
}

async fn echoed(mut client: impl AsyncRead + AsyncWrite + Unpin) -> String {
    client.write_all(b"hello\n").await.unwrap();
    last_word(&mut client).await
}

/// What is answered before the end.
async fn last_word(client: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> String {
    client.shutdown().await.unwrap();
    timeout(SOON, rest(client)).await.expect("somebody answers")
}

/// Three workers that are blocked leave what connects to the new process, from each of their
/// sockets.
async fn three_workers_are_followed_by(arguments: &[&str]) {
    let old = Old::start(Some(3), arguments).await;
    let mut blocking = old.blocker.block_all(&old.server, 3).await;
    let mut waiting = say(&old.server, "early\n").await;
    let mut unix = UnixStream::connect(&old.path).await.unwrap();
    unix.write_all(b"early\n").await.unwrap();
    let mut left = say_to(old.server.tcp_addr(3), "left\n").await;
    let new = old.restart().await;
    for client in &mut waiting {
        assert_eq!(last_word(client).await, "early\n", "of the new process");
    }
    assert_eq!(last_word(&mut unix).await, "early\n");
    drop(old.blocker);
    for client in &mut blocking {
        // Those that were not accepted yet are the new one's too.
        assert_eq!(last_word(client).await.to_uppercase(), "BLOCK\n");
    }
    for client in &mut left {
        assert_eq!(last_word(client).await, "LEFT\n", "of the old process");
    }
    drop((blocking, waiting, unix, left));
    old.server.over().await;
    new.serves_and_ends().await;
}

#[tokio::test]
async fn all_sockets_are_handed_over_to_fewer_workers() {
    three_workers_are_followed_by(&["--workers", "2"]).await;
}

#[tokio::test]
async fn all_sockets_are_handed_over_to_more_workers() {
    three_workers_are_followed_by(&["--workers", "7"]).await;
}

#[tokio::test]
async fn all_sockets_are_handed_over_to_a_process_without_workers() {
    three_workers_are_followed_by(&[]).await;
}

#[tokio::test]
async fn workers_may_follow_a_process_without_any() {
    let old = Old::start(None, &["--workers", "3"]).await;
    let new = old.restart().await;
    old.server.over().await;
    new.serves_and_ends().await;
}

#[tokio::test]
async fn a_new_process_that_fails_leaves_the_workers_as_they_were() {
    let old = Old::start(Some(3), &["--listen", "unix:/no/such/directory/x"]).await;
    timeout(SOON, old.server.handle().restart()).await.unwrap().unwrap_err();
    for client in &mut say(&old.server, "hello\n").await {
        assert_eq!(last_word(client).await, "HELLO\n");
    }
    assert_eq!(echoed(UnixStream::connect(&old.path).await.unwrap()).await, "HELLO\n");
    old.server.end().await;
    assert!(!old.path.exists());
}

#[tokio::test]
async fn a_new_process_that_does_not_begin_leaves_the_workers_as_they_were() {
    let old = Old::followed_by_words("RTTTTTTTTTT", Duration::from_millis(300)).await;
    let error = timeout(SOON, old.server.handle().restart()).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("did not confirm that it begins"), "{error}");
    for client in &mut say(&old.server, "hello\n").await {
        assert_eq!(last_word(client).await, "HELLO\n");
    }
    assert_eq!(echoed(UnixStream::connect(&old.path).await.unwrap()).await, "HELLO\n");
    // The drain accepts the connections that wait at any socket: no socket is given up any more.
    let blocking = old.blocker.block_all(&old.server, 3).await;
    let mut waiting = say(&old.server, "late\n").await;
    old.server.handle().drain(SOON);
    drop(old.blocker);
    for client in &mut waiting {
        assert_eq!(last_word(client).await, "LATE\n");
    }
    drop((blocking, waiting));
    old.server.over().await;
    assert!(!old.path.exists());
}

/// Ours take all sockets of an endpoint or no socket; the message has one entry for each.
#[tokio::test]
async fn of_one_endpoints_sockets_the_remaining_ones_are_served_and_the_taken_ones_are_not() {
    let old = Old::followed_by_words("RTLLTLLLLLLA", SOON).await;
    let blocking = old.blocker.block_all(&old.server, 3).await;
    let waiting = say(&old.server, "early\n").await;
    let new = old.restart().await;
    drop((blocking, old.blocker));
    old.server.over().await;
    assert!(old.path.exists(), "the path is the new process's");
    kill_process(new.pid, Signal::KILL).unwrap();
    let mut served = 0;
    for mut client in waiting {
        let mut answer = String::new();
        // Reset, where it waits at the new process's socket.
        drop(timeout(SOON, client.read_to_string(&mut answer)).await.expect("it ends"));
        served += usize::from(answer == "EARLY\n");
    }
    assert!((1..ENOUGH).contains(&served), "{served}");
}
