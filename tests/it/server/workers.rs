//! A server with workers is one server on several threads.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::future::pending;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use futures::future::join_all;
use ropewalk::{
    Addr, CloseReason, Connection, ConnectionLimitLayer, Error, Lines, Result, Server, Session,
};
use ropewalk::{memory, session};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tower::Service;

use crate::harness::{
    Gauge, Hold, LONG, Running, TempPath, ask, assert_reasons, expect, on_tcp, rest, settle,
    shouter, until,
};
use crate::staffed::{self, Blocker, ENOUGH, say};

/// More than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn connections_are_spread_over_the_workers_threads_and_each_stays_on_its_own() {
    let (service, _blocker) = staffed::service();
    let server = on_tcp(Server::new().workers(4), service).await;
    let mut threads = BTreeSet::new();
    for client in say(&server, "where\n").await {
        let mut client = BufReader::new(client);
        let (mut first, mut second) = (String::new(), String::new());
        client.read_line(&mut first).await.unwrap();
        client.write_all(b"where\n").await.unwrap();
        client.read_line(&mut second).await.unwrap();
        assert_eq!(first, second);
        threads.insert(first.trim_end().to_owned());
    }
    assert_eq!(
        threads.into_iter().collect::<Vec<_>>(),
        ["ropewalk-0", "ropewalk-1", "ropewalk-2", "ropewalk-3"]
    );
    let counts = server.end().await;
    assert_eq!(counts.accepted(), ENOUGH as u64);
}

#[tokio::test]
async fn the_cap_of_the_server_is_one_over_all_workers() {
    let inside = Gauge::default();
    let server = on_tcp(Server::new().workers(3).max_connections(2), Hold(inside.clone())).await;
    // All that are connected, as room is made.
    echoed_and_gone(say(&server, "hello").await).await;
    assert_eq!(inside.ever(), ENOUGH);
    assert!(inside.most() <= 2, "{}", inside.most());
    server.end().await;
}

/// Each has its answer, and makes room for others, in any order.
async fn echoed_and_gone(clients: Vec<TcpStream>) {
    let each = clients.into_iter().map(async |mut client| {
        expect(&mut client, "hello").await;
        client.shutdown().await.unwrap();
        assert_eq!(rest(&mut client).await, "");
    });
    timeout(PATIENCE, join_all(each)).await.expect("all are served");
}

/// Is ready when the last of three threads asks.
#[derive(Default)]
struct AskedByAll {
    hold: Hold,
    asked: Arc<Mutex<HashSet<ThreadId>>>,
}

impl Service<Connection> for AskedByAll {
    type Response = ();
    type Error = Error;
    type Future = <Hold as Service<Connection>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result> {
        let mut asked = self.asked.lock().unwrap();
        asked.insert(thread::current().id());
        if asked.len() == 3 { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn call(&mut self, connection: Connection) -> Self::Future {
        self.hold.call(connection)
    }
}

#[tokio::test]
async fn a_raised_cap_is_noticed_by_every_worker() {
    let service = AskedByAll::default();
    let asked = Arc::clone(&service.asked);
    // Without a timer by which a connection that waits would be looked at again.
    let server = on_tcp(Server::new().workers(3).max_connections(0).make_room(None), service).await;
    let mut clients = say(&server, "hello").await;
    until("each has found no room", || asked.lock().unwrap().len() == 3).await;
    assert_eq!(server.counts().accepted(), 0);
    let handle = server.handle().clone();
    // From outside of any runtime.
    thread::spawn(move || handle.set_max_connections(1000)).join().unwrap();
    for client in &mut clients {
        timeout(PATIENCE, expect(client, "hello")).await.expect("its worker has noticed");
    }
    drop(clients);
    server.until("all have left", |counts| counts.active() == 0).await;
    server.end().await;
}

#[tokio::test]
async fn a_place_of_a_layer_is_not_kept_by_a_worker_that_has_no_connection_for_it() {
    let inside = Gauge::default();
    let limit = ConnectionLimitLayer::new(1).wait();
    let server = on_tcp(Server::new().workers(3).layer(limit), Hold(inside.clone())).await;
    echoed_and_gone(say(&server, "hello").await).await;
    assert_eq!((inside.ever(), inside.most()), (ENOUGH, 1));
    server.end().await;
}

#[tokio::test]
async fn a_drain_serves_the_connections_of_each_worker() {
    let path = TempPath::new();
    let (service, blocker) = staffed::service();
    let server = Server::new().workers(3).listen("tcp:127.0.0.1:0").listen(path.endpoint());
    let server = Running::start(server.serve(service)).await;
    let mut early = blocker.block_all(&server, 3).await;
    // Nobody accepts them, or reads what they say, before the workers are told to close their
    // sockets.
    early.extend(say(&server, "early\n").await);
    let mut unix = UnixStream::connect(path.path()).await.unwrap();
    unix.write_all(b"early\n").await.unwrap();
    server.handle().drain(LONG);
    until("the server has begun to drain", || !path.path().exists()).await;
    settle().await;
    drop(blocker);
    let expected = [["BLOCK\n"; ENOUGH], ["EARLY\n"; ENOUGH]].concat();
    for (client, expected) in early.iter_mut().zip(expected) {
        assert_eq!(rest(client).await, expected);
    }
    assert_eq!(rest(&mut unix).await, "EARLY\n");
    drop((early, unix));
    assert_reasons(&server.over().await, &[(CloseReason::Drained, 2 * ENOUGH as u64 + 1)]);
}

#[tokio::test]
async fn a_drain_waits_for_a_worker_that_has_not_looked_at_its_backlog_yet() {
    let blocker = Blocker::new();
    let block = blocker.block();
    // No connection is left for the drain to wait for, and the thread has no time for the next.
    let service = tower::service_fn(move |connection: Connection| {
        let block = block.clone();
        async move {
            tokio::spawn(async move { block.wait() });
            drop(connection);
            Ok::<_, Error>(())
        }
    });
    let server = on_tcp(Server::new().workers(3), service).await;
    let first = server.connect().await;
    blocker.until_blocked(1).await;
    let clients = say(&server, "").await;
    blocker.until_blocked(3).await;
    server.until("no connection is left", |counts| counts.active() == 0).await;
    server.handle().drain(LONG);
    settle().await;
    assert!(!server.is_over());
    drop(blocker);
    assert_eq!(server.over().await.accepted(), ENOUGH as u64 + 1);
    drop((first, clients));
}

#[tokio::test]
async fn workers_go_on_accepting_in_the_readiness_grace() {
    let (service, blocker) = staffed::service();
    let server = on_tcp(Server::new().workers(3).readiness_grace(PATIENCE), service).await;
    server.handle().drain(LONG);
    for client in &mut say(&server, "hello\n").await {
        expect(client, "HELLO\n").await;
    }
    drop(blocker);
    server.handle().stop();
    server.over().await;
}

#[tokio::test]
async fn workers_take_waiting_connections_when_the_readiness_grace_is_over() {
    let grace = Duration::from_millis(200);
    let (service, blocker) = staffed::service();
    let server = on_tcp(Server::new().workers(3).readiness_grace(grace), service).await;
    let blocking = blocker.block_all(&server, 3).await;
    let start = Instant::now();
    server.handle().drain(LONG);
    let mut waiting = say(&server, "hello\n").await;
    drop(blocker);
    for client in &mut waiting {
        assert_eq!(rest(client).await, "HELLO\n");
    }
    assert!(start.elapsed() >= grace);
    drop((blocking, waiting));
    server.over().await;
}

#[tokio::test]
async fn a_blocked_worker_does_not_hold_up_the_deadline_of_a_drain() {
    let (service, blocker) = staffed::service();
    let server = on_tcp(Server::new().workers(2), service).await;
    let handle = server.handle().clone();
    let clients = blocker.block_all(&server, 2).await;
    let begun = Instant::now();
    handle.drain(Duration::from_millis(300));
    timeout(PATIENCE, handle.ended()).await.expect("it ends");
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    assert!(handle.counts().active() >= 2, "left behind, and counted");
    drop(blocker);
    until("the threads are free again", || handle.counts().active() == 0).await;
    drop(clients);
    server.over().await;
}

#[tokio::test]
async fn port_0_is_one_port_with_a_socket_for_each_worker_until_the_server_ends() {
    let server = on_tcp(Server::new().workers(3), shouter()).await;
    assert_eq!(server.handle().addresses().len(), 1);
    let addr = server.tcp_addr(0);
    ask(&mut server.connect().await, "a\n", "A\n").await;
    if cfg!(target_os = "linux") {
        assert_eq!(sockets_on(addr.port()), 3);
    }
    let second = Server::new().workers(3).listen(addr).serve(shouter()).bind().await.unwrap_err();
    assert!(second.to_string().contains("another program listens there"), "{second}");
    server.end().await;
    drop(TcpListener::bind(addr).expect("the port is free when the server is over"));
}

/// How many TCP sockets listen on a port of 127.0.0.1.
fn sockets_on(port: u16) -> usize {
    // sl local_address rem_address st …, with 0A for one that listens.
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[3] == "0A" && row[1] == format!("0100007F:{port:04X}")).count()
}

#[tokio::test]
async fn a_unix_socket_is_shared_by_all_workers_and_its_path_goes_with_the_server() {
    let path = TempPath::new();
    let (service, blocker) = staffed::service();
    let server =
        Running::start(Server::new().workers(2).listen(path.endpoint()).serve(service)).await;
    assert_eq!(server.handle().addresses(), [Addr::Unix(Some(path.path().into()))]);
    let mut clients = Vec::new();
    // The second is left to the worker that is not blocked.
    for n in 1..=2 {
        let mut client = UnixStream::connect(path.path()).await.unwrap();
        client.write_all(b"block\n").await.unwrap();
        blocker.until_blocked(n).await;
        clients.push(client);
    }
    drop(blocker);
    for client in &mut clients {
        expect(client, "BLOCK\n").await;
    }
    drop(clients);
    server.until("both have left", |counts| counts.active() == 0).await;
    server.end().await;
    assert!(!path.path().exists());
}

#[tokio::test]
async fn proxied_endpoints_have_one_set_of_counters() {
    let who = session(Lines::crlf(), async |mut s: Session<Lines>| {
        let peer = s.peer().to_string();
        s.feed(peer)
    });
    let endpoint = "proxy+tcp:127.0.0.1:0?trust=127.0.0.1";
    let server = Running::start(Server::new().workers(3).listen(endpoint).serve(who)).await;
    for client in &mut say(&server, "PROXY TCP4 192.0.2.7 192.0.2.1 56324 25\r\n").await {
        assert_eq!(rest(client).await, "tcp:192.0.2.7:56324\r\n");
    }
    let handle = server.handle().clone();
    server.end().await;
    assert_eq!(handle.preambles().begun(), ENOUGH as u64);
    assert_eq!(handle.preambles().passed(), ENOUGH as u64);
}

#[tokio::test]
async fn a_socket_that_can_not_be_shared_is_refused_before_anything_is_served() {
    let (endpoint, _connector) = memory::endpoint();
    let path = TempPath::new();
    let server =
        Server::new().workers(2).listen("tcp:127.0.0.1:0").listen(path.endpoint()).listen(endpoint);
    let serve = server.serve(shouter());
    let handle = serve.handle();
    let error = serve.bind().await.unwrap_err();
    assert!(error.to_string().contains("can't be shared by workers"), "{error}");
    assert!(handle.addresses().is_empty() && !path.path().exists());
}

#[tokio::test]
async fn no_workers_at_all_are_as_many_as_there_are_processors() {
    let server = on_tcp(Server::new().workers(0), shouter()).await;
    ask(&mut server.connect().await, "a\n", "A\n").await;
    if cfg!(target_os = "linux") {
        assert_eq!(
            sockets_on(server.tcp_addr(0).port()),
            thread::available_parallelism().unwrap().get()
        );
    }
    server.end().await;
}

#[tokio::test]
async fn a_server_that_is_dropped_takes_its_workers_and_their_connections_with_it() {
    let server = on_tcp(Server::new().workers(3), Hold::default()).await;
    let mut clients = say(&server, "hello").await;
    for client in &mut clients {
        expect(client, "hello").await;
    }
    let addr = server.tcp_addr(0);
    assert_reasons(&server.cut_off().await, &[(CloseReason::Aborted, ENOUGH as u64)]);
    until("nobody listens", || TcpListener::bind(addr).is_ok()).await;
    for client in &mut clients {
        drop(client.read(&mut [0]).await);
    }
}

#[tokio::test]
async fn tasks_of_a_handler_end_with_the_server() {
    let inside = Gauge::default();
    let gauge = inside.clone();
    let service = session(Lines::lf(), move |mut s: Session<Lines>| {
        let inside = gauge.enter();
        async move {
            tokio::spawn(async move {
                let _inside = inside;
                pending::<()>().await;
            });
            s.next().await.map(drop)
        }
    });
    let server = on_tcp(Server::new().workers(3), service).await;
    let mut clients = say(&server, "hello\n").await;
    for client in &mut clients {
        assert_eq!(rest(client).await, "");
    }
    drop(clients);
    assert_eq!(inside.now(), ENOUGH);
    let handle = server.handle().clone();
    server.end().await;
    until("the workers are gone", || inside.now() == 0).await;
    drop(handle);
}
