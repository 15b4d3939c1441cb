//! Restarts under load: nobody is refused, reset or left without an answer.
//!
//! By default 5 restarts and 2 000 connections. The long run is
//! `RESTARTS=50 CONNECTIONS=100000 cargo test --release --test restart load -- --nocapture`, after
//! `cargo build --release --examples`; its figures are in RESULTS.md.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a failed unwrap is a failed test, and what failed is told"
)]

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};

use crate::generations::Generations;
use crate::support::{Client, until};

/// Clients at work at once.
const CLIENTS: usize = 16;

/// Connections that are in the middle of a request at each restart, on either kind of socket.
const LONG: usize = 8;

/// How long a client waits for anything before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(15);

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// The work of the clients so far.
#[derive(Default)]
struct Tally {
    begun: AtomicUsize,
    answered: AtomicUsize,
    failed: AtomicUsize,
    over: AtomicBool,
}

impl Tally {
    /// Waits until so many connections are over and done, as long as there are more and more of
    /// them.
    fn wait_for(&self, connections: usize) {
        let done = || self.answered.load(Ordering::Relaxed) + self.failed.load(Ordering::Relaxed);
        loop {
            let before = done();
            if before >= connections {
                return;
            }
            until("a client is served", || done() > before);
            assert_eq!(self.failed.load(Ordering::Relaxed), 0, "connections failed");
        }
    }
}

#[test]
fn no_connection_is_refused_reset_or_lost_over_restarts_under_load() {
    loses_nobody(&[]);
}

#[test]
fn no_connection_is_refused_reset_or_lost_over_restarts_of_workers_under_load() {
    loses_nobody(&["--workers", "3"]);
}

fn loses_nobody(arguments: &[&str]) {
    let (restarts, connections) = (setting("RESTARTS", 5), setting("CONNECTIONS", 2000));
    let mut server = Generations::start("line_raw", |command, _| {
        command.args(arguments);
    });
    let first = server.pid();
    let tally = Arc::new(Tally::default());
    let runtime = Runtime::new().unwrap();
    for client in 0..CLIENTS {
        let (tally, tcp, unix) = (Arc::clone(&tally), server.tcp, server.unix.clone());
        runtime.spawn(async move { work(client, tcp, unix, connections, &tally).await });
    }
    let begun = Instant::now();
    for restart in 1..=restarts {
        // Spread over the whole load.
        tally.wait_for(connections * restart / (restarts + 1));
        let clients = long_ones(&server);
        server.restart_with(|| finish(clients));
    }
    tally.wait_for(connections);
    tally.over.store(true, Ordering::Relaxed);
    drop(runtime);
    println!(
        "{arguments:?}: {restarts} restarts, {} connections, {} long ones, {} failed, {:.1} s",
        tally.answered.load(Ordering::Relaxed),
        restarts * 2 * LONG,
        tally.failed.load(Ordering::Relaxed),
        begun.elapsed().as_secs_f64()
    );
    assert_eq!(tally.failed.load(Ordering::Relaxed), 0);
    assert_ne!(server.pid(), first);
    assert_eq!(server.processes(), [server.pid()], "of all the processes one is left");
    assert_eq!(server.end(), Some(0));
    assert!(!server.unix.exists(), "the last one has removed the path");
}

/// Connections with a request that has begun: it is finished after the restart, by the process it
/// began with.
fn long_ones(server: &Generations) -> Vec<Client> {
    let both = (0..LONG).flat_map(|_| [Client::tcp(server.tcp), Client::unix(&server.unix)]);
    both.map(|mut client| {
        client.ask("PUT 1\r\nx", "OK 1\r\n");
        client.send("PUT 4\r\nab");
        client
    })
    .collect()
}

fn finish(clients: Vec<Client>) {
    for mut client in clients {
        client.send("cd");
        assert_eq!(client.rest(), b"OK 4\r\n");
    }
}

/// One connection after the other, until there were enough of all clients together.
async fn work(client: usize, tcp: SocketAddr, unix: PathBuf, connections: usize, tally: &Tally) {
    loop {
        let n = tally.begun.fetch_add(1, Ordering::Relaxed);
        if n >= connections || tally.over.load(Ordering::Relaxed) {
            return;
        }
        let talked = timeout(PATIENCE, talk_on(n, tcp, &unix))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match talked {
            Ok(()) => tally.answered.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                eprintln!("client {client}, connection {n}: {error}");
                tally.failed.fetch_add(1, Ordering::Relaxed)
            }
        };
    }
}

async fn talk_on(n: usize, tcp: SocketAddr, unix: &Path) -> io::Result<()> {
    if n.is_multiple_of(2) {
        talk(n, TcpStream::connect(tcp).await?).await
    } else {
        talk(n, UnixStream::connect(unix).await?).await
    }
}

/// One request and its answer, in one of several ways to cut and delay it; then a proper end.
async fn talk(n: usize, mut io: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let request = format!("PUT 8\r\n{n:08}");
    let cut = [0, request.len(), 3, 5, 7, 11, 0, request.len()][n / 2 % 8];
    let pause = Duration::from_millis([0, 1, 5, 20][n / 16 % 4]);
    let (one, two) = request.split_at(cut);
    for piece in [one, two] {
        // With nothing sent yet this is the moment between a connection and its first word.
        if !pause.is_zero() && piece.len() < request.len() {
            sleep(pause).await;
        }
        io.write_all(piece.as_bytes()).await?;
    }
    let mut answer = [0; 6];
    io.read_exact(&mut answer).await?;
    if &answer != b"OK 8\r\n" {
        return Err(io::Error::other(format!("answered {}", answer.escape_ascii())));
    }
    io.shutdown().await?;
    match io.read(&mut answer).await? {
        0 => Ok(()),
        _ => Err(io::Error::other("answered twice")),
    }
}
