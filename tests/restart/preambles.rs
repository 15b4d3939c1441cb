//! Hot restart with something before each connection: no handshake and no header that has begun is
//! lost.
//!
//! Under load by default 3 restarts and 300 connections; `RESTARTS` and `CONNECTIONS` ask for more.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ropewalk::server::Restart;
use ropewalk::{Addr, Bytes, Endpoint, Handle, Lines, Result, Server, framed, reply_fn};
use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional, duplex};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::encrypted::{self, Ca, Client, Folder, localhost, soon, text, until};
use crate::generations::{Generations, free_port};
use crate::support;

/// A server that answers in capitals; the process that takes over echoes.
struct Shouting {
    handle: Handle,
    addr: SocketAddr,
    task: JoinHandle<Result>,
}

impl Shouting {
    async fn on(endpoint: &str) -> Self {
        let echo = Restart::new().program(support::command("echo").get_program());
        let server = Server::new().listen(endpoint).hot_restart(echo.args(["--listen", endpoint]));
        let shout = reply_fn(|line: Bytes| line.to_ascii_uppercase());
        let server = server.serve(framed(Lines::any(), shout)).bind().await.unwrap();
        let handle = server.handle();
        let Addr::Tcp(addr) = handle.addresses()[0] else { panic!("no port") };
        Self { handle, addr, task: tokio::spawn(server) }
    }

    async fn over(self) {
        soon(self.task).await.unwrap().unwrap();
        assert_eq!((self.handle.counts().active(), self.handle.preambles().pending()), (0, 0));
    }
}

/// A new process that has taken over. Ended with this value.
struct Successor(Pid);

impl Successor {
    async fn of(server: &Shouting) -> Self {
        let pid = soon(server.handle.restart()).await.unwrap();
        Self(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap())
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        kill_process(self.0, Signal::KILL).ok();
    }
}

/// A line and what is answered, up to the end.
async fn answered(mut stream: impl AsyncRead + AsyncWrite + Unpin, line: &str) -> String {
    stream.write_all(line.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = vec![0; line.len()];
    soon(stream.read_exact(&mut answer)).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(soon(stream.read_to_end(&mut answer)).await.unwrap(), 0);
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_handshake_under_way_is_finished_by_the_process_it_began_with() {
    let (ca, folder) = (Ca::new(), Folder::new());
    for version in [&TLS12, &TLS13] {
        let endpoint =
            Endpoint::tcp(([127, 0, 0, 1], 0).into()).tls(localhost(&ca, &folder)).to_string();
        let server = Shouting::on(&endpoint).await;
        let client = Client::new(&ca, "localhost").version(version);
        let (near, mut far) = duplex(64 * 1024);
        let mut handshake =
            client.connector().connect(ServerName::try_from("localhost").unwrap(), near);
        assert!(futures::poll!(&mut handshake).is_pending());
        let mut hello = vec![0; 4096];
        let n = far.read(&mut hello).await.unwrap();
        let (first, second) = hello[..n].split_at(n / 2);
        let mut tcp = TcpStream::connect(server.addr).await.unwrap();
        tcp.write_all(first).await.unwrap();
        until("the handshake has begun", || server.handle.preambles().pending() == 1).await;
        let successor = Successor::of(&server).await;
        tcp.write_all(second).await.unwrap();
        let copying = tokio::spawn(async move { copy_bidirectional(&mut far, &mut tcp).await });
        let stream = soon(handshake).await.unwrap();
        // Whoever comes now is the new process's.
        assert_eq!(answered(client.tcp(server.addr).await.unwrap(), "new\n").await, "new\n");
        assert_eq!(answered(stream, "old\n").await, "OLD\n");
        drop(copying.await);
        assert_eq!((server.handle.preambles().begun(), server.handle.preambles().passed()), (1, 1));
        server.over().await;
        drop(successor);
    }
}

#[tokio::test]
async fn a_proxys_header_under_way_is_read_by_the_process_it_began_with() {
    let server = Shouting::on("proxy+tcp:127.0.0.1:0?trust=127.0.0.0/8").await;
    let mut begun = TcpStream::connect(server.addr).await.unwrap();
    begun.write_all(b"PROXY TCP4 192.0.2.7 192").await.unwrap();
    until("the header has begun", || server.handle.preambles().pending() == 1).await;
    let _successor = Successor::of(&server).await;
    begun.write_all(b".0.2.1 56324 25\r\n").await.unwrap();
    assert_eq!(answered(begun, "old\n").await, "OLD\n");
    let mut new = TcpStream::connect(server.addr).await.unwrap();
    new.write_all(b"PROXY UNKNOWN\r\n").await.unwrap();
    assert_eq!(answered(new, "new\n").await, "new\n");
    server.over().await;
}

/// Clients at work at once.
const CLIENTS: usize = 8;

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// One handshake, one request, one answer and a proper end after the other. Of every few, one takes
/// its time between the pieces: before its hello, and before its request.
async fn work(
    client: usize,
    server: SocketAddr,
    tls: Arc<Client>,
    done: Arc<AtomicUsize>,
) -> io::Result<()> {
    let (mut n, connections) = (client, setting("CONNECTIONS", 300));
    while done.load(Ordering::Relaxed) < connections {
        n += 1;
        let pause = Duration::from_millis([0, 0, 5, 20][n % 4]);
        let tcp = TcpStream::connect(server).await?;
        sleep(pause).await;
        let mut stream = tls.shake(tcp).await?;
        sleep(pause).await;
        encrypted::echo(&mut stream, b"hello").await?;
        stream.shutdown().await?;
        if stream.read(&mut [0]).await? != 0 {
            return Err(io::Error::other("answered twice"));
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

#[test]
fn no_handshake_fails_over_restarts_under_load() {
    let (restarts, connections) = (setting("RESTARTS", 3), setting("CONNECTIONS", 300));
    let (ca, folder, addr) = (Ca::new(), Folder::new(), free_port());
    let issued = ca.issue(["localhost"]);
    let pem = folder.write("x.pem", format!("{}{}", issued.cert, issued.key));
    let mut server = Generations::start("echo", |command, _| {
        command.args(["--listen", &format!("tls:{addr}?cert={0}&key={0}", text(&pem))]);
    });
    // The last one that is bound.
    support::until("the encrypted endpoint listens", || support::Client::try_tcp(addr).is_ok());
    let (tls, done) = (Arc::new(Client::new(&ca, "localhost")), Arc::new(AtomicUsize::new(0)));
    let runtime = Runtime::new().unwrap();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| runtime.spawn(work(client, addr, Arc::clone(&tls), Arc::clone(&done))))
        .collect();
    for restart in 1..=restarts {
        // Spread over the whole load.
        support::until("clients are served", || {
            let failed = clients.iter().any(|client| client.is_finished());
            failed || done.load(Ordering::Relaxed) >= connections * restart / (restarts + 1)
        });
        server.restart();
    }
    for client in clients {
        runtime.block_on(soon(client)).unwrap().unwrap();
    }
    assert_eq!(server.end(), Some(0));
}
