//! Connections that wait when a drain begins: all are taken, the sockets close at once, and each is
//! served when it can be.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream as StdTcpStream};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use ropewalk::server::DrainReport;
use ropewalk::{Addr, CloseReason, ConnectionLimitLayer, Handle, Server, memory};
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::harness::{
    self, Gauge, LONG, Running, TempPath, ask, assert_reasons, assert_reset, gated, on_memory,
    rest, settle, until,
};
use crate::support;

const SECOND: Duration = Duration::from_secs(1);

/// How soon after the beginning of a drain nobody listens any more.
const CLOSED: Duration = Duration::from_millis(100);

/// What stands before a line behind a proxy.
const HEADER: &str = "PROXY TCP4 192.0.2.7 192.0.2.1 56324 25\r\n";

const ENDPOINTS: [(&str, &str); 2] =
    [("tcp:127.0.0.1:0", ""), ("proxy+tcp:127.0.0.1:0?trust=127.0.0.1", HEADER)];

fn report(handle: &Handle) -> DrainReport {
    handle.drain_report().expect("the server is over")
}

/// Connects so many, each with one line and its end, while the one thread there is accepts nobody.
fn crowd(addr: &Addr, n: usize, before: &str) -> Vec<Box<dyn Read>> {
    let text = format!("{before}a\n");
    let tcp = |addr| {
        let mut client = StdTcpStream::connect(addr).unwrap();
        client.write_all(text.as_bytes()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        client.set_read_timeout(Some(20 * SECOND)).unwrap();
        Box::new(client) as Box<dyn Read>
    };
    let unix = |path| {
        let mut client = StdUnixStream::connect(path).unwrap();
        client.write_all(text.as_bytes()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        client.set_read_timeout(Some(20 * SECOND)).unwrap();
        Box::new(client) as Box<dyn Read>
    };
    (0..n)
        .map(|_| match addr {
            Addr::Tcp(addr) => tcp(*addr),
            Addr::Unix(Some(path)) => unix(path),
            other => panic!("{other}"),
        })
        .collect()
}

fn answered(clients: &mut [Box<dyn Read>]) -> usize {
    let heard = clients.iter_mut().map(|client| {
        let mut text = String::new();
        client.read_to_string(&mut text).map(|_| text)
    });
    heard.filter(|heard| heard.as_ref().is_ok_and(|text| text == "A\n")).count()
}

#[tokio::test]
async fn all_that_wait_in_a_large_backlog_are_served() {
    const CLIENTS: usize = 2500;
    harness::descriptors();
    let path = TempPath::new();
    let unix = format!("{}?backlog=4096", path.endpoint());
    let proxied = format!("{}&backlog=4096", ENDPOINTS[1].0);
    for (endpoint, before) in
        [("tcp:127.0.0.1:0?backlog=4096", ""), (&proxied, HEADER), (&unix, "")]
    {
        let server = Server::new().listen(endpoint).serve(harness::shouter()).bind().await.unwrap();
        let handle = server.handle();
        let mut clients = crowd(&handle.addresses()[0], CLIENTS, before);
        handle.drain(60 * SECOND);
        server.await.unwrap();
        assert_eq!(answered(&mut clients), CLIENTS, "{endpoint}");
        assert_eq!(report(&handle).cut(), 0, "{endpoint}");
    }
}

#[tokio::test]
async fn all_that_wait_for_workers_are_served() {
    const CLIENTS: usize = 1500;
    harness::descriptors();
    let endpoint = "tcp:127.0.0.1:0?backlog=2048";
    let server =
        Server::new().workers(2).max_connections(50).listen(endpoint).serve(harness::shouter());
    let server = server.bind().await.unwrap();
    let handle = server.handle();
    // The sockets listen, and the workers have not begun.
    let mut clients = crowd(&handle.addresses()[0], CLIENTS, "");
    handle.drain(60 * SECOND);
    server.await.unwrap();
    assert_eq!(answered(&mut clients), CLIENTS);
    assert_reasons(&handle.counts(), &[(CloseReason::Drained, CLIENTS as u64)]);
}

#[tokio::test]
async fn the_sockets_close_at_once_though_no_slot_is_free_and_waiting_connections_are_served_one_after_the_other()
 {
    for (endpoint, before) in ENDPOINTS {
        let (gate, inside) = (Arc::new(Semaphore::new(0)), Gauge::default());
        let server = Server::new().max_connections(1).listen(endpoint).serve(gated(&gate, &inside));
        let server = Running::start(server).await;
        let mut clients = Vec::new();
        for n in 0..4 {
            let mut client = server.connect().await;
            client.write_all(format!("{before}{n}a\n").as_bytes()).await.unwrap();
            clients.push(client);
        }
        until("the first is served", || inside.now() == 1).await;
        let start = Instant::now();
        server.handle().drain(LONG);
        settle().await;
        assert!(StdTcpStream::connect(server.tcp_addr(0)).is_err(), "{endpoint}: nobody listens");
        assert!(start.elapsed() <= CLOSED, "{endpoint}: {:?}", start.elapsed());
        // The port is free for the next server, too.
        let next = Server::new().listen(format!("tcp:{}", server.tcp_addr(0)));
        drop(next.serve(harness::shouter()).bind().await.unwrap());
        for (n, client) in clients.iter_mut().enumerate() {
            assert_eq!(inside.ever(), n + 1, "{endpoint}: the others wait");
            gate.add_permits(1);
            assert_eq!(rest(client).await, format!("{n}A\n"), "{endpoint}");
            client.shutdown().await.ok();
            if n < 3 {
                until("the next one is served", || inside.ever() == n + 2).await;
            }
        }
        drop(clients);
        let handle = server.handle().clone();
        assert_reasons(&server.over().await, &[(CloseReason::Drained, 4)]);
        assert_eq!(report(&handle).cut(), 0);
    }
}

#[tokio::test]
async fn connections_that_are_not_served_by_the_deadline_are_reset_and_counted() {
    for (endpoint, before) in ENDPOINTS {
        let (gate, inside) = (Arc::new(Semaphore::new(0)), Gauge::default());
        let server = Server::new().max_connections(1).listen(endpoint).serve(gated(&gate, &inside));
        let server = Running::start(server).await;
        let mut clients = Vec::new();
        for _ in 0..3 {
            let mut client = server.connect().await;
            client.write_all(format!("{before}a\n").as_bytes()).await.unwrap();
            clients.push(client);
        }
        until("the first is served", || inside.now() == 1).await;
        let handle = server.handle().clone();
        assert_eq!(handle.drain_report(), None, "it is not over");
        handle.drain(SECOND / 4);
        for client in &mut clients {
            assert_reset(client).await;
        }
        assert_reasons(&server.over().await, &[(CloseReason::Aborted, 1)]);
        let report = report(&handle);
        assert_eq!(
            (report.unserved(), report.closed(CloseReason::Aborted), report.cut()),
            (2, 1, 3),
            "{endpoint}"
        );
        assert_eq!(report.blocked(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_memory_endpoint_drains_in_the_same_way_with_preambles_and_without() {
    for proxied in [false, true] {
        let (endpoint, connector) = memory::endpoint();
        let endpoint = if proxied { endpoint.proxied([]) } else { endpoint };
        let before = if proxied { HEADER } else { "" };
        let (gate, inside) = (Arc::new(Semaphore::new(0)), Gauge::default());
        let cap = ConnectionLimitLayer::new(1);
        let server =
            Running::start(Server::new().layer(cap).listen(endpoint).serve(gated(&gate, &inside)))
                .await;
        let mut clients = Vec::new();
        for _ in 0..4 {
            let mut client = connector.connect().await.unwrap();
            client.write_all(format!("{before}a\n").as_bytes()).await.unwrap();
            clients.push(client);
        }
        until("the first is served", || inside.now() == 1).await;
        let start = Instant::now();
        server.handle().drain(10 * SECOND);
        settle().await;
        assert!(connector.connect().await.is_err(), "nobody listens");
        for client in &mut clients[..2] {
            gate.add_permits(1);
            assert_eq!(rest(client).await, "A\n");
            client.shutdown().await.ok();
        }
        assert!(start.elapsed() < SECOND);
        let handle = server.handle().clone();
        let over = timeout(LONG, server.over()).await.unwrap();
        assert_eq!(start.elapsed(), 10 * SECOND, "to the deadline");
        assert_reasons(&over, &[(CloseReason::Aborted, 1), (CloseReason::Drained, 2)]);
        assert_eq!(report(&handle).unserved(), 1, "proxied: {proxied}");
    }
}

/// As without preambles: nobody waits, so there is nothing to wait for.
#[tokio::test(start_paused = true)]
async fn a_server_that_is_never_ready_and_has_no_connection_drains_at_once() {
    for proxied in [false, true] {
        let (endpoint, connector) = memory::endpoint();
        let endpoint = if proxied { endpoint.proxied([]) } else { endpoint };
        let nobody = ConnectionLimitLayer::new(0);
        let server =
            Running::start(Server::new().layer(nobody).listen(endpoint).serve(harness::shouter()))
                .await;
        settle().await;
        let start = Instant::now();
        server.handle().drain(LONG);
        server.over().await;
        assert_eq!(start.elapsed(), Duration::ZERO, "proxied: {proxied}");
        drop(connector);
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_in_its_preamble_does_not_keep_a_server_at_its_cap_for_long() {
    let (endpoint, connector) = memory::endpoint();
    let nobody = ConnectionLimitLayer::new(0);
    let server = Running::start(
        Server::new().layer(nobody).listen(endpoint.proxied([])).serve(harness::shouter()),
    )
    .await;
    let mut silent = connector.connect().await.unwrap();
    settle().await;
    let start = Instant::now();
    server.handle().drain(LONG);
    harness::assert_cut(&mut silent).await;
    let handle = server.handle().clone();
    server.over().await;
    assert!(start.elapsed() <= 2 * SECOND, "{:?}", start.elapsed());
    assert_eq!(report(&handle).cut(), 0, "a peer that says nothing has lost nothing");
}

/// Descriptors are left for those that are served, and the server ends.
#[test]
fn without_descriptors_for_all_that_wait_it_serves_as_many_as_it_can() {
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg("ulimit -n 128; exec \"$0\" \"$@\"")
        .arg(support::command("echo").get_program());
    let mut example = support::Example::spawn(command, support::TempDir::new());
    let addr = example.tcp;
    let mut clients = Vec::new();
    example.terminate_before_it_reads(|| {
        for _ in 0..300 {
            let mut client = StdTcpStream::connect(addr).unwrap();
            client.write_all(b"a\n").unwrap();
            client.set_read_timeout(Some(20 * SECOND)).unwrap();
            clients.push(client);
        }
    });
    let served = clients
        .iter_mut()
        .filter_map(|client| client.read(&mut [0; 2]).ok())
        .filter(|n| *n == 2)
        .count();
    drop(clients);
    assert!(example.wait().success());
    assert!((80..128).contains(&served), "{served}");
}

#[tokio::test(start_paused = true)]
async fn a_report_counts_from_the_beginning_of_the_drain() {
    let (gate, inside) = (Arc::new(Semaphore::new(0)), Gauge::default());
    let (server, connector) = on_memory(Server::new(), gated(&gate, &inside)).await;
    let mut early = connector.connect().await.unwrap();
    gate.add_permits(1);
    ask(&mut early, "a\n", "A\n").await;
    drop(early);
    server.until("it has left", |counts| counts.closed(CloseReason::Done) == 1).await;
    let mut idle = connector.connect().await.unwrap();
    let mut stuck = connector.connect().await.unwrap();
    stuck.write_all(b"never answered\n").await.unwrap();
    until("the call is under way", || inside.now() == 1).await;
    let handle = server.handle().clone();
    handle.drain(SECOND);
    assert_eq!(rest(&mut idle).await, "");
    drop(idle);
    server.over().await;
    let report = report(&handle);
    assert_eq!(
        report.reasons().collect::<Vec<_>>(),
        [(CloseReason::Aborted, 1), (CloseReason::Drained, 1)]
    );
    assert_eq!(report.cut(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_whose_future_was_dropped_has_no_report() {
    let (server, _connector) = on_memory(Server::new(), harness::shouter()).await;
    let handle = server.handle().clone();
    server.cut_off().await;
    assert_eq!(handle.drain_report(), None);
}
