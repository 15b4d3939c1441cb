//! Endpoints are added and removed again and again under load. It counts the descriptors of the
//! process.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ropewalk::server::EndpointState;
use ropewalk::{Addr, Handle, Lines, Server, framed, reply_fn};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

const LONG: Duration = Duration::from_secs(60);
const ROUNDS: usize = 60;
const CLIENTS: usize = 8;
const PLAIN: &str = "tcp:127.0.0.1:0";
const PROXIED: &str = "proxy+tcp:127.0.0.1:0?trust=127.0.0.1";

fn address(handle: &Handle, number: usize) -> SocketAddr {
    match handle.endpoints()[number].address() {
        Addr::Tcp(address) => *address,
        other => unreachable!("not TCP: {other}"),
    }
}

/// Sends the rest of a line, and awaits its echo.
async fn ask(stream: &mut TcpStream, rest: &str, line: &str) {
    stream.write_all(rest.as_bytes()).await.unwrap();
    let mut answer = vec![0; line.len()];
    timeout(LONG, stream.read_exact(&mut answer)).await.expect("it is answered").unwrap();
    assert_eq!(answer, line.as_bytes());
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LONG, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

async fn all_are_gone(handle: &Handle) {
    let none_is_open = || handle.counts().active() == 0 && handle.preambles().pending() == 0;
    until("all are gone", none_is_open).await;
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// An endpoint comes, serves, and goes while one connection is in the middle of its first line or
/// header.
async fn comes_and_goes(handle: &Handle, endpoint: &str) {
    let header = if endpoint == PROXIED { "PROXY UNKNOWN\r\n" } else { "" };
    let number = handle.add_endpoint("main", endpoint).await.unwrap();
    let address = address(handle, number);
    let mut served = TcpStream::connect(address).await.unwrap();
    ask(&mut served, &format!("{header}one\n"), "one\n").await;
    let mut begun = TcpStream::connect(address).await.unwrap();
    begun.write_all(b"PROX").await.unwrap();
    let silent = TcpStream::connect(address).await.unwrap();
    handle.remove_endpoint(number).await.unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "nothing listens there");
    if endpoint == PROXIED {
        ask(&mut begun, "Y UNKNOWN\r\ntwo\n", "two\n").await;
    } else {
        ask(&mut begun, "Y\n", "PROXY\n").await;
    }
    drop(silent);
    ask(&mut served, "three\n", "three\n").await;
}

/// All that was counted for endpoints is all that was counted.
fn audit(handle: &Handle) {
    let endpoints = handle.endpoints();
    let of_all = |count: fn(&ropewalk::server::EndpointInfo) -> u64| {
        endpoints.iter().map(count).sum::<u64>()
    };
    let counts = handle.counts();
    assert_eq!(counts.accepted(), of_all(|endpoint| endpoint.counts().accepted()));
    assert_eq!(counts.closed_in_all(), of_all(|endpoint| endpoint.counts().closed_in_all()));
    assert_eq!(counts.accepted(), counts.active() + counts.closed_in_all());
    assert_eq!(handle.preambles().begun(), of_all(|endpoint| endpoint.preambles().begun()));
    assert_eq!(handle.preambles().passed(), of_all(|endpoint| endpoint.preambles().passed()));
    assert!(endpoints.iter().skip(1).all(|endpoint| endpoint.state() == EndpointState::Removed));
}

async fn endures(server: Server) {
    let server = server.listen(PLAIN).serve(framed(Lines::lf(), reply_fn(|line: Bytes| line)));
    let server = server.bind().await.unwrap();
    let handle = server.handle();
    let server = tokio::spawn(server);
    let main = address(&handle, 0);
    // What a server and a runtime open once is open now.
    comes_and_goes_when_it_accepts(&handle).await;
    all_are_gone(&handle).await;
    let before = descriptors();
    let over = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let over = Arc::clone(&over);
            let answered = Arc::clone(&answered);
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let mut stream = TcpStream::connect(main).await.unwrap();
                    ask(&mut stream, "hello\n", "hello\n").await;
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for round in 0..ROUNDS {
        if round % 10 == 5 {
            handle.pause_endpoint(0).await.unwrap();
        }
        let others = [PLAIN, PROXIED].map(|endpoint| comes_and_goes(&handle, endpoint));
        tokio::join!(futures::future::join_all(others), async {
            handle.resume_endpoint(0).await.unwrap();
        });
    }
    over.store(true, Ordering::Relaxed);
    for client in clients {
        timeout(LONG, client).await.expect("it is answered").unwrap();
    }
    assert!(answered.load(Ordering::Relaxed) > 0);
    all_are_gone(&handle).await;
    audit(&handle);
    until("all descriptors are closed", || descriptors() <= before).await;
    handle.stop();
    server.await.unwrap().unwrap();
}

async fn comes_and_goes_when_it_accepts(handle: &Handle) {
    let mut first = TcpStream::connect(address(handle, 0)).await.unwrap();
    ask(&mut first, "hello\n", "hello\n").await;
    for endpoint in [PLAIN, PROXIED] {
        comes_and_goes(handle, endpoint).await;
    }
}

#[tokio::test]
async fn endpoints_that_come_and_go_under_load_lose_no_connection_and_no_descriptor() {
    endures(Server::new()).await;
    endures(Server::new().workers(3)).await;
}
