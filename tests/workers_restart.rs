//! Hot restart of a server with workers: all their sockets are handed over, to as many workers as the new process has.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::HashSet;
use std::time::Duration;

use harness::{LONG, Running, ask, assert_reasons, rest, until};
use ropewalk::{CloseReason, Restart, Server};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use staffed::{ENOUGH, say};
use support::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

mod harness;
mod staffed;
mod support;

/// Long enough for a new process on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// What the example is told besides its endpoints.
const FEWER: &[&str] = &["--workers", "2"];
const MORE: &[&str] = &["--workers", "7"];
const NONE: &[&str] = &[];

/// Restarts a server of three workers, or of none, with its workers blocked: whoever connects is for the new process,
/// from whichever of the sockets.
async fn all_sockets_are_served_after_a_restart(workers: Option<usize>, arguments: &[&str]) {
    let dir = TempDir::new();
    let path = dir.join("x.sock");
    // Two endpoints by one name: the sockets of either are its own.
    let endpoints = ["tcp:127.0.0.1:0".to_owned(), format!("unix:{}", path.display()), "tcp:127.0.0.1:0".to_owned()];
    let arguments = endpoints.iter().flat_map(|endpoint| ["--listen", endpoint]).chain(arguments.iter().copied());
    let restart = Restart::new().program(support::command("echo").get_program()).args(arguments).ready_within(SOON);
    let server = endpoints.iter().fold(Server::new().hot_restart(restart), Server::listen);
    let server = workers.into_iter().fold(server, Server::workers);
    let (service, blocker) = staffed::service();
    let server = Running::start(server.serve(service)).await;
    let (addr, other) = (server.tcp_addr(0), server.tcp_addr(2));
    let mut old = match workers {
        Some(workers) => blocker.block(&server, workers).await,
        None => Vec::new(),
    };
    let mut early = if workers.is_some() { say(&server, "early\n").await } else { Vec::new() };
    let new = i32::try_from(timeout(SOON, server.handle().restart()).await.unwrap().unwrap()).unwrap();
    let new = Pid::from_raw(new).unwrap();
    let mut served = 0;
    for client in &mut early {
        // The old process had taken those that stood before the one that blocked it.
        client.shutdown().await.unwrap();
        served += usize::from(timeout(Duration::from_secs(2), rest(client)).await.is_ok_and(|text| text == "early\n"));
    }
    drop(blocker);
    let _ = served;
    for client in &mut old {
        assert_eq!(rest(client).await, "BLOCK\n");
    }
    let _ = (addr, other, new, LONG, HashSet::<u8>::new());
    let _ = (ask::<TcpStream>, UnixStream::connect::<&str>, test_kill_process, Signal::TERM, kill_process, assert_reasons, CloseReason::Drained, until::<fn() -> bool>);
}
