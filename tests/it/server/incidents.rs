//! Faults of a server that do not belong to a connection: a listener that fails for good, a thread
//! that stands still.

use std::net::{Shutdown, TcpListener as StdTcpListener};
use std::os::fd::IntoRawFd;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use ropewalk::{Addr, Bytes, Lines, Server, framed, service_fn};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use socket2::SockRef;
use tokio::io::AsyncWriteExt;

use crate::harness::{self, Running, ask, shouter, until};

const SECOND: Duration = Duration::from_secs(1);

/// A listening socket as a parent passes it on, by its number; and another descriptor of it, by
/// which somebody may spoil it. Each number can be bound once, so this one is `from` at least.
fn passed(from: i32) -> (i32, StdTcpListener) {
    let socket = StdTcpListener::bind("127.0.0.1:0").unwrap();
    let passed = fcntl_dupfd_cloexec(&socket, from).unwrap();
    fcntl_setfd(&passed, FdFlags::empty()).unwrap();
    (passed.into_raw_fd(), socket)
}

async fn told(failures: &Receiver<(String, Option<i32>)>) -> (String, Option<i32>) {
    let mut told = None;
    let deadline = Instant::now() + 20 * SECOND;
    while told.is_none() && Instant::now() < deadline {
        told = failures.try_recv().ok();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    told.expect("the hook is called")
}

/// Panics when it is dropped, too.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("as a panic's value may");
    }
}

#[tokio::test]
async fn a_listener_whose_socket_is_shut_down_is_told_of_once_and_the_others_serve_on() {
    for (scheme, from) in [("fd", 100), ("proxy+fd", 200)] {
        let (number, other) = passed(from);
        let address = Addr::Tcp(other.local_addr().unwrap()).to_string();
        let trust = if scheme == "fd" { "" } else { "?trust=127.0.0.1" };
        let (failed, failures) = channel();
        let server = Server::new()
            .listen("tcp:127.0.0.1:0")
            .listen(format!("{scheme}:{number}{trust}"))
            .on_listener_failure(move |address, error| {
                failed.send((address.to_string(), error.raw_os_error())).unwrap();
                // A hook that panics does not end the server.
                std::panic::panic_any(Bomb);
            });
        let server = Running::start(server.serve(shouter())).await;
        ask(&mut server.connect().await, "a\n", "A\n").await;
        SockRef::from(&other).shutdown(Shutdown::Both).unwrap();
        assert_eq!(told(&failures).await, (address, Some(libc::EINVAL)));
        ask(&mut server.connect().await, "a\n", "A\n").await;
        tokio::time::sleep(SECOND / 2).await;
        assert!(failures.try_recv().is_err(), "once");
        server.end().await;
    }
}

/// Answers, and blocks its thread for the milliseconds it is sent.
fn blocking(server: Server) -> ropewalk::server::Serve {
    let service = service_fn(async |line: Bytes| {
        thread::sleep(Duration::from_millis(String::from_utf8_lossy(&line).parse()?));
        Ok(line)
    });
    server.listen("tcp:127.0.0.1:0").serve(framed(Lines::lf(), service))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_blocks_one_thread_of_two_is_reported_within_a_second_and_others_are_served()
{
    stalls_once(Server::new()).await;
}

#[tokio::test]
async fn a_worker_that_is_blocked_is_reported_too() {
    stalls_once(Server::new().workers(2)).await;
}

async fn stalls_once(server: Server) {
    let server = Running::start(blocking(server)).await;
    let mut idle = server.connect().await;
    ask(&mut idle, "0\n", "0\n").await;
    tokio::time::sleep(SECOND * 3 / 2).await;
    assert_eq!(server.handle().stalls(), 0, "nobody works, and nobody stands still");
    let mut client = server.connect().await;
    client.write_all(b"3000\n").await.unwrap();
    let start = Instant::now();
    let handle = server.handle().clone();
    // Asked by a thread of its own: any of the runtime's may be the one that is blocked.
    let seen = tokio::task::spawn_blocking(move || {
        while handle.stalls() == 0 && start.elapsed() < 10 * SECOND {
            thread::sleep(Duration::from_millis(5));
        }
        start.elapsed()
    });
    let seen = seen.await.unwrap();
    assert!(seen > SECOND / 2 && seen < 2 * SECOND, "{seen:?}");
    harness::expect(&mut client, "3000\n").await;
    until("it goes on", || start.elapsed() > 3 * SECOND).await;
    assert_eq!(server.handle().stalls(), 1, "once for each time");
    drop((idle, client));
    server.end().await;
}
