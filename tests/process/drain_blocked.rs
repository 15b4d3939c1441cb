//! The drain's deadline holds even when user code blocks every thread there is.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed unwrap is a failed test; a helper talks by its output"
)]

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{self, Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ropewalk::{Addr, Bytes, CloseReason, ConnectionService, Lines, Server, framed, service_fn};
use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use crate::support::{self, PATIENCE, until};

/// The threads of the runtime under test.
const WORKERS: usize = 2;

/// The variable that tells a helper process which kind of runtime to block.
const HELPER: &str = "ROPEWALK_TEST_BLOCKED";

/// The code of a server that found its handlers blocked.
const STUCK: i32 = 75;

/// A service whose every request blocks its thread until the sender is dropped; it says so when it
/// begins.
fn blocking() -> (impl ConnectionService, Sender<()>, Receiver<()>) {
    let (release, released) = channel::<()>();
    let (began, begun) = channel();
    let released = Arc::new(Mutex::new(released));
    let service = service_fn(move |line: Bytes| {
        let (released, began) = (Arc::clone(&released), began.clone());
        async move {
            began.send(()).ok();
            // Held by one, waited for by the others.
            released.lock().unwrap().recv().ok();
            Ok(line)
        }
    });
    (framed(Lines::lf(), service), release, begun)
}

fn runtime(workers: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(workers).enable_all().build().unwrap()
}

fn tcp_addr(addresses: &[Addr]) -> SocketAddr {
    match addresses[0] {
        Addr::Tcp(addr) => addr,
        ref other => panic!("{other}"),
    }
}

fn ask(addr: SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(addr).unwrap();
    client.write_all(b"block\n").unwrap();
    client
}

/// Waits until so many have begun to block. The first that does may be the one that would have
/// heard of the others: tokio leaves its driver to a worker, and no other takes it over before it
/// is woken. Then nothing moves any more either, and that will do.
fn begin_to_block<T>(begun: &Receiver<T>, n: usize) {
    begun.recv_timeout(PATIENCE).expect("the first one blocks");
    for _ in 1..n {
        begun.recv_timeout(Duration::from_millis(500)).ok();
    }
}

#[test]
fn the_server_ends_by_the_deadline_though_every_worker_is_blocked() {
    let (service, release, begun) = blocking();
    let runtime = runtime(WORKERS);
    let serve =
        runtime.block_on(Server::new().listen("tcp:127.0.0.1:0").serve(service).bind()).unwrap();
    let (handle, addr) = (serve.handle(), tcp_addr(serve.handle().addresses()));
    let helper = thread::spawn({
        let handle = handle.clone();
        move || {
            let clients: Vec<_> = (0..WORKERS).map(|_| ask(addr)).collect();
            begin_to_block(&begun, WORKERS);
            let begun = Instant::now();
            handle.drain(Duration::from_millis(300));
            (begun, clients)
        }
    });
    runtime.block_on(serve).unwrap();
    let (begun, clients) = helper.join().unwrap();
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(300), "{took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(handle.counts().active() > 0, "left behind, and counted");
    drop(release);
    until("the threads are free again", || handle.counts().active() == 0);
    assert_eq!(handle.counts().closed(CloseReason::Aborted), handle.counts().accepted());
    drop(clients);
}

/// Not a test by itself: the server of the tests below, in a process of its own.
#[test]
fn helper() {
    let Ok(kind) = env::var(HELPER) else { return };
    let (service, release, begun) = blocking();
    let runtime = if kind != "one" {
        runtime(WORKERS)
    } else {
        Builder::new_current_thread().enable_all().build().unwrap()
    };
    let server =
        Server::new().listen("tcp:127.0.0.1:0").signals().drain_within(Duration::from_millis(200));
    // Said when it hears signals.
    let server = server
        .exit_if_stuck(STUCK)
        .on_listening(|addresses| println!("\nlistening {}", tcp_addr(addresses)));
    let serve = runtime.block_on(server.serve(service).bind()).unwrap();
    let handle = serve.handle();
    let (tell, told) = oneshot::channel();
    let blocked = thread::spawn(move || {
        let mut tell = Some(tell);
        for _ in begun {
            println!("\nblocked");
            let _ = tell.take().map(|tell| tell.send(()));
        }
    });
    match &*kind {
        "dropped" | "dropped_in_a_drain" => {
            // On this thread, which no handler blocks, and without a timer: the runtime may have
            // nobody left for those.
            runtime.block_on(async {
                let told = async {
                    drop(told.await);
                    if kind == "dropped_in_a_drain" {
                        handle.drain(Duration::from_millis(100));
                    }
                };
                tokio::select! {
                    biased;
                    () = told => {}
                    result = serve => panic!("{result:?}"),
                }
            });
            thread::sleep(Duration::from_secs(4));
            process::exit(0);
        }
        _ => runtime.block_on(serve).unwrap(),
    }
    // A runtime with blocked threads can't be dropped: this waits for them.
    drop(runtime);
    drop((release, blocked));
}

/// The helper, and what it says once it listens.
struct Helper {
    child: Child,
    lines: Receiver<String>,
}

impl Helper {
    fn start(kind: &str) -> (Self, SocketAddr) {
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args(["--exact", &support::test(module_path!(), "helper"), "--nocapture"])
            .env(HELPER, kind);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            let said = output.lines().map_while(std::io::Result::ok);
            let said = said.filter(|line| line == "blocked" || line.starts_with("listening "));
            said.take_while(|line| sender.send(line.clone()).is_ok()).for_each(drop);
        });
        let helper = Self { child, lines };
        let addr = helper.lines.recv_timeout(PATIENCE).expect("the helper listens");
        (helper, addr.strip_prefix("listening ").unwrap().parse().unwrap())
    }

    fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    fn code(&mut self) -> Option<i32> {
        until("the helper ends", || self.child.try_wait().unwrap().is_some());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn is_exited_when_blocked(kind: &str, clients: usize) {
    let (mut helper, addr) = Helper::start(kind);
    let _clients: Vec<_> = (0..clients).map(|_| ask(addr)).collect();
    begin_to_block(&helper.lines, clients);
    helper.terminate();
    assert_eq!(helper.code(), Some(STUCK));
}

#[test]
fn a_process_whose_workers_are_all_blocked_is_exited_if_it_wants_to_be() {
    is_exited_when_blocked("many", WORKERS);
}

#[test]
fn a_process_with_one_blocked_worker_of_several_is_exited_too() {
    is_exited_when_blocked("many", 1);
}

#[test]
fn a_process_whose_only_thread_is_blocked_hears_the_signal_and_is_exited() {
    is_exited_when_blocked("one", 1);
}

#[test]
fn a_process_that_is_not_blocked_ends_by_itself() {
    for kind in ["many", "one"] {
        let (mut helper, addr) = Helper::start(kind);
        drop(TcpStream::connect(addr).unwrap());
        helper.terminate();
        assert_eq!(helper.code(), Some(0), "{kind}");
    }
}

/// Only a drain has a deadline. A program that drops the server's future goes on with something
/// else.
#[test]
fn a_process_that_has_dropped_its_server_is_not_exited_though_a_handler_blocks() {
    for kind in ["dropped", "dropped_in_a_drain"] {
        let (mut helper, addr) = Helper::start(kind);
        let _client = ask(addr);
        assert_eq!(helper.code(), Some(0), "{kind}");
    }
}
