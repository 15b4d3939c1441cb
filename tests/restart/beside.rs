//! Servers beside another one, whose hot restart hands their sockets over as well.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use ropewalk::server::{Reload, Restart, RestartError};
use ropewalk::{Bytes, Endpoint, Lines, Server, framed, reply_fn};
use tokio::net::{TcpStream, UnixStream};

use crate::generations::Generations;
use crate::harness::{Running, ask, shouter};
use crate::support::{Client, TempDir, until};

/// Asks for a path of an admin endpoint; the first line and the body.
fn asked(mut client: Client, path: &str) -> (String, String) {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
    let text = String::from_utf8(client.rest()).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

#[test]
fn an_admin_endpoint_answers_all_the_time_and_then_shows_the_new_process() {
    let mut admin = None;
    let mut server = Generations::start("admin", |command, dir| {
        let path = dir.join("admin.sock");
        command.arg("--admin").arg(format!("unix:{}", path.display()));
        admin = Some(path);
    });
    let path = admin.unwrap();
    until("the admin endpoint is there", || path.exists());
    let inode = fs::metadata(&path).unwrap().ino();
    let mut client = Client::tcp(server.tcp);
    client.ask("hello\n", "hello\n");
    let accepted = || {
        let (first, body) = asked(Client::unix(&path), "/status");
        assert_eq!(first, "HTTP/1.1 200 OK");
        // Those by which the example was found to listen are among them.
        body.split("\"accepted\":")
            .nth(1)
            .unwrap()
            .split([',', '}'])
            .next()
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    let before = accepted();
    assert!(before >= 1);
    let over = Arc::new(AtomicBool::new(false));
    let asking = {
        let (over, path) = (Arc::clone(&over), path.clone());
        thread::spawn(move || {
            let mut answers = 0;
            while !over.load(Ordering::Relaxed) {
                assert_eq!(
                    asked(Client::unix(&path), "/healthz"),
                    ("HTTP/1.1 200 OK".to_owned(), "ok\n".to_owned())
                );
                answers += 1;
            }
            answers
        })
    };
    drop(client);
    server.restart();
    over.store(true, Ordering::Relaxed);
    assert!(asking.join().unwrap() > 0);
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode, "it is the same socket");
    assert!(accepted() < before, "the counts are those of the new process");
    assert_eq!(asked(Client::unix(&path), "/readyz").1, "ready\n");
    assert_eq!(server.end(), Some(0));
    assert!(!path.exists(), "the new process has removed its path");
}

#[tokio::test]
async fn after_a_restart_that_fails_the_server_beside_goes_on_and_keeps_its_path() {
    let dir = TempDir::new();
    let (main, path) = (dir.join("main.sock"), dir.join("beside.sock"));
    let restart = Restart::new().program("/bin/false").args([] as [&str; 0]);
    let main = Server::new().listen(format!("unix:{}", main.display())).hot_restart(restart);
    let main = Running::start(main.serve(shouter())).await;
    let beside = Server::new().listen(format!("unix:{}", path.display())).beside(main.handle());
    let beside =
        Running::start(beside.serve(framed(Lines::any(), reply_fn(|line: Bytes| line)))).await;
    for _ in 0..2 {
        ask(&mut UnixStream::connect(&path).await.unwrap(), "a\n", "a\n").await;
        assert!(matches!(main.handle().restart().await, Err(RestartError::Exited { .. })));
    }
    ask(&mut UnixStream::connect(&path).await.unwrap(), "a\n", "a\n").await;
    beside.handle().stop();
    beside.over().await;
    assert!(!path.exists(), "its path is its own to remove");
    main.handle().stop();
    main.over().await;
}

#[tokio::test]
async fn a_server_beside_one_that_never_runs_ends_when_it_is_told() {
    let dir = TempDir::new();
    let path = dir.join("beside.sock");
    let main =
        Server::new().listen(format!("unix:{}", dir.join("main.sock").display())).serve(shouter());
    let beside = Server::new().listen(format!("unix:{}", path.display())).beside(&main.handle());
    let beside =
        beside.serve(framed(Lines::any(), reply_fn(|line: Bytes| line))).bind().await.unwrap();
    let handle = beside.handle();
    handle.stop();
    tokio::time::timeout(std::time::Duration::from_secs(10), beside).await.unwrap().unwrap();
    assert!(!path.exists());
    drop(main);
}

/// A server with two endpoints beside another one; the second is on a socket with this path.
async fn two_beside(main: &Running, path: &Path, workers: Option<usize>) -> Running {
    let beside = Server::new()
        .listen("tcp:127.0.0.1:0")
        .listen(format!("unix:{}", path.display()))
        .beside(main.handle());
    let beside = workers.into_iter().fold(beside, Server::workers);
    let beside =
        Running::start(beside.serve(framed(Lines::any(), reply_fn(|line: Bytes| line)))).await;
    ask(&mut beside.connect().await, "a\n", "a\n").await;
    beside
}

#[tokio::test]
async fn an_endpoint_of_the_server_beside_that_is_removed_listens_no_more() {
    for workers in [None, Some(2)] {
        let dir = TempDir::new();
        let path = dir.join("beside.sock");
        let main = Running::start(Server::new().listen("tcp:127.0.0.1:0").serve(shouter())).await;
        let beside = two_beside(&main, &path, workers).await;
        let address = beside.tcp_addr(0);
        beside.handle().remove_endpoint(0).await.unwrap();
        let refused = TcpStream::connect(address).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{workers:?}");
        // Another one may have its address now.
        let again = beside.handle().add_endpoint("main", Endpoint::tcp(address)).await.unwrap();
        ask(&mut TcpStream::connect(address).await.unwrap(), "b\n", "b\n").await;
        beside.handle().remove_endpoint(again).await.unwrap();
        ask(&mut UnixStream::connect(&path).await.unwrap(), "c\n", "c\n").await;
        beside.handle().remove_endpoint(1).await.unwrap();
        assert!(!path.exists());
        beside.handle().stop();
        beside.over().await;
        main.handle().stop();
        main.over().await;
    }
}

/// Resources that say how often they were read and set.
#[derive(Clone, Default)]
struct Counted {
    read: Arc<AtomicUsize>,
    set: Arc<AtomicUsize>,
    broken: Arc<AtomicBool>,
}

impl Reload for Counted {
    type State = ();

    async fn read(&self) -> ropewalk::Result {
        self.read.fetch_add(1, Ordering::Relaxed);
        match self.broken.load(Ordering::Relaxed) {
            true => Err(ropewalk::Error::other("it is broken")),
            false => Ok(()),
        }
    }

    fn set(&self, (): ()) {
        self.set.fetch_add(1, Ordering::Relaxed);
    }
}

impl Counted {
    fn counts(&self) -> (usize, usize) {
        (self.read.load(Ordering::Relaxed), self.set.load(Ordering::Relaxed))
    }
}

#[tokio::test]
async fn a_reload_reloads_the_server_beside_as_well_or_neither() {
    let (one, other) = (Counted::default(), Counted::default());
    let dir = TempDir::new();
    let main = Server::new().listen("tcp:127.0.0.1:0").reload(one.clone());
    let main = Running::start(main.serve(shouter())).await;
    let beside = Server::new()
        .listen(format!("unix:{}", dir.join("beside.sock").display()))
        .reload(other.clone())
        .beside(main.handle());
    let beside = Running::start(beside.serve(shouter())).await;
    // It is beside the other one as soon as it serves.
    ask(&mut UnixStream::connect(dir.join("beside.sock")).await.unwrap(), "a\n", "A\n").await;
    main.handle().reload().await.unwrap();
    assert_eq!((one.counts(), other.counts()), ((1, 1), (1, 1)));
    other.broken.store(true, Ordering::Relaxed);
    assert!(main.handle().reload().await.is_err());
    assert_eq!((one.counts(), other.counts()), ((2, 1), (2, 1)));
    other.broken.store(false, Ordering::Relaxed);
    one.broken.store(true, Ordering::Relaxed);
    assert!(main.handle().reload().await.is_err());
    assert_eq!((one.counts().1, other.counts().1), (1, 1));
    // Its own handle reloads it alone.
    beside.handle().reload().await.unwrap();
    assert_eq!((one.counts().1, other.counts().1), (1, 2));
    one.broken.store(false, Ordering::Relaxed);
    beside.handle().stop();
    beside.over().await;
    let before = other.counts();
    main.handle().reload().await.unwrap();
    assert_eq!((one.counts().1, other.counts()), (2, before), "it has ended");
    main.handle().stop();
    main.over().await;
}

async fn an_endpoint_is_closed(workers: bool) {
    let dir = TempDir::new();
    let at = |name: &str| format!("unix:{}", dir.join(name).display());
    let restart = Restart::new().program("/bin/false").args([] as [&str; 0]);
    let main = Server::new().listen(at("main")).hot_restart(restart);
    let main = Running::start(main.serve(shouter())).await;
    let beside = Server::new().listen("tcp:127.0.0.1:0").listen("tcp:127.0.0.1:0");
    let beside = if workers { beside.workers(2) } else { beside }.beside(main.handle());
    let beside =
        Running::start(beside.serve(framed(Lines::any(), reply_fn(|line: Bytes| line)))).await;
    let gone = beside.tcp_addr(0);
    ask(&mut beside.connect().await, "a\n", "a\n").await;
    beside.handle().remove_endpoint(0).await.unwrap();
    assert!(TcpStream::connect(gone).await.is_err(), "nothing listens there");
    // The others are handed over as before.
    assert!(matches!(main.handle().restart().await, Err(RestartError::Exited { .. })));
    let mut other = TcpStream::connect(beside.tcp_addr(1)).await.unwrap();
    ask(&mut other, "a\n", "a\n").await;
    drop(other);
    for server in [beside, main] {
        server.handle().stop();
        server.over().await;
    }
}

#[tokio::test]
async fn an_endpoint_that_is_removed_from_a_server_beside_another_one_is_closed() {
    an_endpoint_is_closed(false).await;
}

#[tokio::test]
async fn an_endpoint_that_is_removed_from_a_server_with_workers_beside_another_one_is_closed() {
    an_endpoint_is_closed(true).await;
}
