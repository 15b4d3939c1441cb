//! Defaults of a server that the README's table names, as a running one has them.

use std::collections::VecDeque;
use std::env;
use std::fs;
use std::future::pending;
use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ropewalk::connection::Stream;
use ropewalk::endpoint::Listener;
use ropewalk::memory;
use ropewalk::server::Restart;
use ropewalk::{Addr, CloseReason, Endpoint, Lines, Peer, Server, Session, session};
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::harness::{self, LONG, Running, ask, on_memory, on_tcp, settle, shouter};
use crate::support::{self, TempDir, skipped};

const SECOND: Duration = Duration::from_secs(1);

/// The least limit that a control group or one above it has, in version 2.
fn group_limit() -> Option<usize> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let limits = Path::new(group)
        .ancestors()
        .map(|group| Path::new("/sys/fs/cgroup").join(group).join("memory.max"));
    limits.filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok()).min()
}

#[tokio::test]
async fn a_quarter_of_the_memory_is_for_the_buffers_of_all_connections() {
    let (server, _connector) = on_memory(Server::new(), shouter()).await;
    let budget = server.handle().memory().budget().unwrap();
    match fs::read_to_string("/proc/meminfo") {
        Ok(info) => {
            let total = info
                .lines()
                .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
            let machine = total.unwrap().parse::<usize>().unwrap() * 1024;
            // A group of version 1 may allow less.
            let memory = machine.min(group_limit().unwrap_or(machine));
            let is_exact = budget == memory / 4;
            assert!(
                is_exact || budget < memory / 4 && group_limit().is_none(),
                "{budget} of {memory}"
            );
        }
        Err(_) => {
            #[allow(clippy::print_stdout, reason = "the test below reads it")]
            {
                println!("no /proc/meminfo");
            }
            assert_eq!(budget, 1 << 30);
        }
    }
    server.end().await;
}

/// The test above in a process for which nothing of this machine is mounted there.
#[cfg(target_os = "linux")]
#[test]
fn where_the_system_does_not_tell_its_memory_the_buffers_have_1_gib() {
    let hide =
        "mount -t tmpfs none /proc && mount -t tmpfs none /sys/fs/cgroup || exit 75; exec \"$@\"";
    let test = support::test(
        module_path!(),
        "a_quarter_of_the_memory_is_for_the_buffers_of_all_connections",
    );
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", hide, "sh"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", &test, "--nocapture"])
        .output();
    match output {
        Ok(output) if output.status.success() => {
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(said.contains("no /proc/meminfo") && said.contains("1 passed"), "{said}");
        }
        // As in a container that allows no user namespaces.
        Ok(output) if output.status.code() == Some(75) || output.stdout.is_empty() => {
            skipped(&format!("no mounts of its own: {}", String::from_utf8_lossy(&output.stderr)));
        }
        Err(error) => skipped(&format!("no unshare: {error}")),
        Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stdout)),
    }
}

/// Connections that wait to be accepted, and how many were.
#[derive(Clone, Default)]
struct Crowd {
    waiting: Arc<Mutex<(VecDeque<DuplexStream>, Option<Waker>)>>,
    accepted: Arc<AtomicUsize>,
}

impl Crowd {
    fn connect(&self) -> DuplexStream {
        let (client, server) = duplex(1024);
        let mut waiting = self.waiting.lock().unwrap();
        waiting.0.push_back(server);
        waiting.1.take().into_iter().for_each(Waker::wake);
        client
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Listener for Crowd {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<(Stream, Peer)> {
        let mut waiting = self.waiting.lock().unwrap();
        let Some(stream) = waiting.0.pop_front() else {
            waiting.1 = Some(cx.waker().clone());
            return Poll::Pending;
        };
        self.accepted.fetch_add(1, Ordering::SeqCst);
        Poll::Ready((Stream::from_io(stream), Peer::new(Addr::Memory)))
    }

    fn local_addr(&self) -> Addr {
        Addr::Memory
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_server_holds_64_that_wait_and_after_250_ms_turns_one_away_for_each_that_comes() {
    let crowd = Crowd::default();
    let server = Server::new().max_connections(1).listen(Endpoint::from_listener(crowd.clone()));
    let server = Running::start(server.serve(shouter())).await;
    let mut first = crowd.connect();
    ask(&mut first, "a\n", "A\n").await;
    let start = Instant::now();
    let _clients: Vec<_> = (0..100).map(|_| crowd.connect()).collect();
    settle().await;
    assert_eq!((crowd.accepted(), server.closed(CloseReason::NoRoom)), (1 + 64, 0));
    server.until("others are taken", |counts| counts.closed(CloseReason::NoRoom) == 100 - 64).await;
    assert!((250..300).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    assert_eq!(crowd.accepted(), 1 + 100);
    server.handle().stop();
    server.over().await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_accepts_no_connection_that_comes_after_it_began() {
    let leaf = session(Lines::lf(), async |_: Session<Lines>| pending().await);
    let (server, connector) = on_memory(Server::new(), leaf).await;
    let _served = connector.connect().await.unwrap();
    server.until("it is served", |counts| counts.active() == 1).await;
    server.handle().drain(LONG);
    settle().await;
    assert_eq!(connector.connect().await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    server.handle().stop();
    assert_eq!(server.over().await.accepted(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_2_s_for_a_silent_preamble_and_5_for_a_header_that_has_begun() {
    for (said, seconds) in [("", 2), ("PROXY TCP4 ", 5)] {
        let (endpoint, connector) = memory::endpoint();
        let server =
            Running::start(Server::new().listen(endpoint.proxied([])).serve(shouter())).await;
        let mut client = connector.connect().await.unwrap();
        client.write_all(said.as_bytes()).await.unwrap();
        settle().await;
        let start = Instant::now();
        server.handle().drain(LONG);
        harness::assert_cut(&mut client).await;
        assert_eq!(start.elapsed(), SECOND * seconds, "{said:?}");
        server.over().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_process_has_30_s_until_it_is_ready() {
    let dir = TempDir::new();
    let script = dir.join("hangs");
    fs::write(&script, "exec sleep 1000").unwrap();
    let server = Server::new().hot_restart(Restart::new().program("/bin/sh").args([script]));
    let server = on_tcp(server, shouter()).await;
    // What the new process says takes real time, which a paused clock does not wait for: it runs
    // out at once.
    let start = Instant::now();
    server.handle().restart().await.unwrap_err();
    // And a second at most, in which it is waited for when it was killed.
    assert!((30..=31).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    server.end().await;
}

/// The system takes one connection more than the backlog has.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_backlog_holds_1024_connections() {
    const BACKLOG: usize = 1024;
    let allowed: usize =
        fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap();
    if harness::descriptors() < 2 * BACKLOG as u64 || allowed < BACKLOG {
        return;
    }
    // Bound and not served: nobody accepts.
    let server = Server::new().listen("tcp:127.0.0.1:0").serve(shouter()).bind().await.unwrap();
    let Addr::Tcp(addr) = server.handle().addresses()[0].clone() else {
        panic!("it is a TCP endpoint")
    };
    let mut clients = Vec::new();
    for _ in 0..=BACKLOG {
        clients.push(timeout(LONG, TcpStream::connect(addr)).await.unwrap().unwrap());
    }
    // The next one is not answered: it would have been at once, as the others were.
    assert!(timeout(Duration::from_millis(500), TcpStream::connect(addr)).await.is_err());
    drop((clients, server));
}

#[tokio::test(start_paused = true)]
async fn connections_may_wait_for_as_long_as_they_like_while_there_is_room() {
    let (server, connector) = on_memory(Server::new(), shouter()).await;
    let mut client = connector.connect().await.unwrap();
    sleep(SECOND * 24 * 3600).await;
    ask(&mut client, "a\n", "A\n").await;
    drop(client);
    server.end().await;
}
