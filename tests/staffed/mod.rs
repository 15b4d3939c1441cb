//! Servers with workers: a service that says on which thread it runs, and blocks it when it is told to.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // each test file uses its part of it

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use bytes::Bytes;
use ropewalk::{ConnectionService, Lines, framed, service_fn};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::{Gauge, Running, shout, until};

/// Connections enough for every one of a few workers to get some: that one of four gets none of them happens once in
/// twenty million runs.
pub const ENOUGH: usize = 64;

/// Blocks workers for as long as it lives.
pub struct Blocker {
    inside: Gauge,
    _release: Sender<()>,
}

/// Answers `where` with the name of the thread, and anything else in capitals; `block` blocks the thread first.
pub fn service() -> (impl ConnectionService, Blocker) {
    let (release, released) = channel();
    let (released, inside) = (Arc::new(Mutex::new(released)), Gauge::default());
    let blocker = Blocker { inside: inside.clone(), _release: release };
    let service = service_fn(move |line: Bytes| {
        let (released, inside): (Arc<Mutex<Receiver<()>>>, Gauge) = (Arc::clone(&released), inside.clone());
        async move {
            if line == "block" {
                let _inside = inside.enter();
                // Held by one, waited for by the others.
                released.lock().unwrap().recv().ok();
            }
            let name = thread::current().name().unwrap_or_default().to_owned();
            Ok(if line == "where" { name.into() } else { shout(&line) })
        }
    });
    (framed(Lines::lf(), service), blocker)
}

impl Blocker {
    /// Blocks all the workers of a server, if it has so many. The clients are to be answered with `BLOCK`.
    pub async fn block(&self, server: &Running, workers: usize) -> Vec<TcpStream> {
        let clients = say(server, "block\n").await;
        self.until_blocked(workers).await;
        clients
    }

    /// Waits until so many workers are blocked.
    pub async fn until_blocked(&self, workers: usize) {
        until("the workers are blocked", || self.inside.now() == workers).await;
    }
}

/// Connections enough for each worker to have some, which have said this.
pub async fn say(server: &Running, text: &str) -> Vec<TcpStream> {
    let mut clients = Vec::new();
    for _ in 0..ENOUGH {
        let mut client = server.connect().await;
        client.write_all(text.as_bytes()).await.unwrap();
        clients.push(client);
    }
    clients
}
