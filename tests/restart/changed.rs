//! Endpoints that a handle has added, removed or paused are in the new process as they were in the
//! old one.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use ropewalk::server::Restart;
use ropewalk::{Bytes, Endpoint, Handle, Lines, Server, TlsConfig, framed, reply_fn};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::encrypted::{Ca, Folder, localhost};
use crate::generations::{Generations, free_port};
use crate::harness::{self, Running};
use crate::support::{self, PATIENCE, TempDir};

fn ask_on(mut stream: impl Read + Write, line: &str) -> String {
    stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    answer.trim_end().to_owned()
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn ask(address: SocketAddr, line: &str) -> String {
    ask_on(connect(address), line)
}

/// The address of an endpoint in an answer to `list`.
fn address(list: &str, number: usize) -> SocketAddr {
    let words: Vec<_> = list.split("; ").nth(number).unwrap().split(' ').collect();
    words[2].strip_prefix("tcp:").unwrap().parse().unwrap()
}

/// Makes changes of each kind, and finds them after two restarts.
fn changes_last(args: &[&str]) {
    let dir = TempDir::new();
    let path = dir.join("added.sock");
    let mut server = Generations::start("changing", |command, _| {
        let other = format!("tcp:{}", free_port());
        command.args(["--other", &other, "--other", "tcp:127.0.0.1:0"]).args(args);
    });
    let main = server.tcp;
    assert_eq!(ask(main, "add main tcp:127.0.0.1:0"), "4");
    assert_eq!(ask(main, &format!("add other unix:{}?mode=600", path.display())), "5");
    assert_eq!(ask(main, "add main tcp:127.0.0.1:0"), "6");
    assert_eq!(ask(main, "remove 1"), "removed");
    assert_eq!(ask(main, "remove 2"), "removed");
    assert_eq!(ask(main, "pause 3"), "paused");
    assert_eq!(ask(main, "remove 6"), "removed");
    let before = ask(main, "list");
    let mut processes = vec![ask(main, "process")];
    for _ in 0..2 {
        server.restart();
        // One that was added and removed is not known any more; all others are as they were.
        assert_eq!(ask(main, "list"), before.rsplit_once("; ").unwrap().0);
        let process = ask(main, "process");
        assert!(!processes.contains(&process), "it is a new one");
        assert_eq!(ask(address(&before, 4), "process"), process);
        assert_eq!(ask_on(UnixStream::connect(&path).unwrap(), "hi"), "other hi");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!server.unix.exists(), "nothing is where the removed endpoint was");
        assert!(TcpStream::connect(address(&before, 2)).is_err());
        processes.push(process);
    }
    // It is paused not in name only.
    let mut waits = connect(address(&before, 3));
    waits.write_all(b"hi\n").unwrap();
    (0..20).for_each(|_| assert_eq!(ask(main, "accepted 3"), "0"));
    assert_eq!(ask(main, "resume 3"), "resumed");
    let mut answer = [0; 9];
    waits.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"other hi\n");
    drop(waits);
    assert_eq!(server.end(), Some(0));
    assert!(!path.exists(), "the path of an added endpoint goes with the last process");
}

#[test]
fn endpoints_are_as_they_were_after_two_restarts() {
    changes_last(&[]);
}

#[test]
fn endpoints_are_as_they_were_after_two_restarts_of_a_server_with_workers() {
    changes_last(&["--workers", "3"]);
}

/// A server in this process, followed by the program, which is told to listen on these endpoints.
struct Old {
    server: Running,
    handle: Handle,
}

impl Old {
    async fn start(endpoints: &[&str], program: &[&str]) -> Self {
        let restart =
            Restart::new().program(support::command("changing").get_program()).args(program);
        let answer = || framed(Lines::lf(), reply_fn(|line: Bytes| line));
        let server =
            Server::new().hot_restart(restart).serve_on("gone", ["tcp:127.0.0.1:0"], answer());
        let server = endpoints.iter().fold(server, |server, endpoint| server.listen(*endpoint));
        let server = Running::start(server.serve(answer())).await;
        let handle = server.handle().clone();
        // It accepts: endpoints can be changed from now on.
        harness::ask(&mut server.connect().await, "hi\n", "hi\n").await;
        Self { server, handle }
    }

    fn address(&self, number: usize) -> String {
        self.handle.endpoints()[number].address().to_string()
    }

    async fn restart(self) -> New {
        let pid = self.handle.restart().await.unwrap();
        self.server.over().await;
        New(Pid::from_raw(pid.try_into().unwrap()).unwrap())
    }
}

/// The process that has taken over. Killed if the test fails.
struct New(Pid);

impl New {
    async fn end(self) {
        kill_process(self.0, Signal::TERM).unwrap();
        harness::until("the new process is gone", || test_kill_process(self.0).is_err()).await;
    }
}

impl Drop for New {
    fn drop(&mut self) {
        kill_process(self.0, Signal::KILL).ok();
    }
}

fn tcp(address: &str) -> SocketAddr {
    address.strip_prefix("tcp:").unwrap().parse().unwrap()
}

async fn blocking<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(run).await.unwrap()
}

#[tokio::test]
async fn the_new_program_adds_and_removes_endpoints_of_its_own() {
    let dir = TempDir::new();
    let unix = |name: &str| format!("unix:{}", dir.join(name).display());
    let [kept, left, removed, new] = ["kept", "left", "removed", "new"].map(unix);
    // It names one that was removed, one that was added to another service, and one that is new.
    let taken = format!("tcp:{}", free_port());
    let program = [
        "--listen",
        &kept,
        "--listen",
        &removed,
        "--listen",
        &new,
        "--listen",
        "tcp:127.0.0.1:0",
        "--other",
        &taken,
    ];
    let old = Old::start(&[&kept, &left, &removed, "tcp:127.0.0.1:0"], &program).await;
    old.handle.remove_endpoint(3).await.unwrap();
    let added = old.handle.add_endpoint("main", "tcp:127.0.0.1:0").await.unwrap();
    old.handle.add_endpoint("gone", unix("of a service that is gone")).await.unwrap();
    old.handle.add_endpoint("main", &taken).await.unwrap();
    let (main, added, taken) = (old.address(4), old.address(added), tcp(&taken));
    let new_process = old.restart().await;
    let list = {
        let main = tcp(&main);
        blocking(move || ask(main, "list")).await
    };
    let wanted = [
        format!("0 main {kept} Open"),
        format!("1 main {removed} Removed"),
        format!("2 main {new} Open"),
        format!("3 main {main} Open"),
        format!("4 other tcp:{taken} Open"),
        format!("5 main {added} Open"),
    ];
    assert_eq!(list, wanted.join("; "));
    assert_eq!(blocking(move || ask(taken, "hi")).await, "other hi");
    for (endpoint, is_there) in [(&kept, true), (&new, true), (&left, false), (&removed, false)] {
        let path = endpoint.strip_prefix("unix:").unwrap();
        assert_eq!(Path::new(path).exists(), is_there, "{endpoint}");
    }
    assert!(!dir.join("of a service that is gone").exists());
    new_process.end().await;
}

#[tokio::test]
async fn an_added_endpoint_is_encrypted_in_the_new_process_or_is_closed() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let old = Old::start(&["tcp:127.0.0.1:0"], &["--listen", "tcp:127.0.0.1:0"]).await;
    let key = ca.issue(["localhost"]);
    let configs = [localhost(&ca, &folder), TlsConfig::pem(key.cert, key.key)];
    let [of_files, in_memory] = configs.map(|config| Endpoint::tcp(free_port()).tls(config));
    let of_files = old.handle.add_endpoint("main", of_files).await.unwrap();
    let in_memory = old.handle.add_endpoint("main", in_memory).await.unwrap();
    let (main, of_files, in_memory) =
        (old.address(1), old.address(of_files), old.address(in_memory));
    let new = old.restart().await;
    let main = tcp(&main);
    let list = blocking(move || ask(main, "list")).await;
    assert_eq!(list, format!("0 main tcp:{main} Open; 1 main {of_files} Open"));
    assert!(TcpStream::connect(tcp(&in_memory)).is_err(), "its certificate can't be handed over");
    // Not a plain one: a handshake with nonsense fails, and no line is answered.
    let of_files = tcp(&of_files);
    let answer = blocking(move || {
        let mut stream = connect(of_files);
        stream.write_all(b"hello\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok();
        answer
    });
    assert!(!answer.await.starts_with(b"main hello"));
    new.end().await;
}
