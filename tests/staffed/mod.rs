//! Servers with workers: a service that says on which thread it runs, and blocks it when it is told
//! to.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // each test file uses its part of it

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use bytes::Bytes;
use ropewalk::{ConnectionService, Lines, framed, service_fn};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::{Gauge, Running, shout, until};

/// Enough connections for each of a few workers to get some: one of four gets no connection in one
/// of twenty million runs.
pub const ENOUGH: usize = 64;

/// Blocks workers for as long as it lives.
pub struct Blocker {
    block: Block,
    _release: Sender<()>,
}

/// The work that blocks them.
#[derive(Clone)]
pub struct Block {
    released: Arc<Mutex<Receiver<()>>>,
    inside: Gauge,
}

/// Answers `where` with the name of the thread, and anything else in capitals; `block` blocks the
/// thread first.
pub fn service() -> (impl ConnectionService, Blocker) {
    let blocker = Blocker::new();
    let block = blocker.block();
    let service = service_fn(move |line: Bytes| {
        let block = block.clone();
        async move {
            if line == "block" {
                block.wait();
            }
            let name = thread::current().name().unwrap_or_default().to_owned();
            Ok(if line == "where" { name.into() } else { shout(&line) })
        }
    });
    (framed(Lines::lf(), service), blocker)
}

impl Block {
    pub fn wait(&self) {
        let _inside = self.inside.enter();
        // Held by one, waited for by the others.
        self.released.lock().unwrap().recv().ok();
    }
}

impl Blocker {
    pub fn new() -> Self {
        let (release, released) = channel();
        let block = Block { released: Arc::new(Mutex::new(released)), inside: Gauge::default() };
        Self { block, _release: release }
    }

    pub fn block(&self) -> Block {
        self.block.clone()
    }

    /// Blocks all the workers of a server, if it has so many. The clients are to be answered with
    /// `BLOCK`.
    pub async fn block_all(&self, server: &Running, workers: usize) -> Vec<TcpStream> {
        let clients = say(server, "block\n").await;
        self.until_blocked(workers).await;
        clients
    }

    /// Waits until so many workers are blocked.
    pub async fn until_blocked(&self, workers: usize) {
        until("the workers are blocked", || self.block.inside.now() == workers).await;
    }
}

/// Connections enough for each worker to have some, which have said this.
pub async fn say(server: &Running, text: &str) -> Vec<TcpStream> {
    say_to(server.tcp_addr(0), text).await
}

/// The same to another endpoint than the first.
pub async fn say_to(addr: SocketAddr, text: &str) -> Vec<TcpStream> {
    let mut clients = Vec::new();
    for _ in 0..ENOUGH {
        let mut client = TcpStream::connect(addr).await.unwrap();
        client.write_all(text.as_bytes()).await.unwrap();
        clients.push(client);
    }
    clients
}
