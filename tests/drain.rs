//! A drain loses nothing that was received, and ends by its deadline.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::future::pending;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use harness::{
    Gauge, Hold, LONG, Running, TempPath, ask, assert_cut, assert_reasons, assert_reset, expect, on_memory, on_tcp,
    rest, settle, shout, until,
};
use ropewalk::connection::LINGER;
use ropewalk::memory::{self, MemoryStream};
use ropewalk::{
    CloseReason, ConnectionService, Handle, Lines, RawBytes, Reply, Result, Server, Session, framed, reply_fn,
    service_fn, session,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, split};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep, timeout};

mod harness;

const SECOND: Duration = Duration::from_secs(1);

/// Answers each line in capitals.
fn shouter()
-> impl ConnectionService + tower::Service<ropewalk::Connection, Response = (), Error = ropewalk::Error, Future: Send> {
    framed(Lines::lf(), reply_fn(|line: Bytes| shout(&line)))
}

/// Answers each line when the gate opens for it.
fn gated(
    gate: &Arc<Semaphore>,
    inside: &Gauge,
) -> impl ConnectionService + tower::Service<ropewalk::Connection, Response = (), Error = ropewalk::Error, Future: Send>
{
    let (gate, inside) = (Arc::clone(gate), inside.clone());
    framed(
        Lines::lf(),
        service_fn(move |line: Bytes| {
            let (gate, inside) = (Arc::clone(&gate), inside.enter());
            async move {
                gate.acquire().await?.forget();
                drop(inside);
                Ok(shout(&line))
            }
        }),
    )
}

#[tokio::test(start_paused = true)]
async fn idle_connections_close_at_once() {
    let (server, connector) = on_memory(Server::new(), shouter()).await;
    let mut clients = Vec::new();
    for i in 0..10 {
        let mut client = connector.connect().await.unwrap();
        // Some have never said a word.
        if i % 2 == 0 {
            ask(&mut client, "a\n", "A\n").await;
        }
        clients.push(client);
    }
    settle().await;
    let start = Instant::now();
    server.handle().drain(LONG);
    for client in &mut clients {
        assert_eq!(rest(client).await, "");
    }
    drop(clients);
    assert_reasons(&server.over().await, &[(CloseReason::Drained, 10)]);
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_hears_the_end_and_does_not_close_is_waited_for_no_longer_than_the_linger() {
    let (server, connector) = on_memory(Server::new(), shouter()).await;
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "a\n", "A\n").await;
    let start = Instant::now();
    server.handle().drain(LONG);
    assert_eq!(rest(&mut client).await, "");
    assert_reasons(&server.over().await, &[(CloseReason::Drained, 1)]);
    assert_eq!(start.elapsed(), LINGER);
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn two_thousand_idle_connections_drain_at_once() {
    let (server, connector) = on_memory(Server::new(), shouter()).await;
    let mut clients = Vec::new();
    for _ in 0..2000 {
        clients.push(connector.connect().await.unwrap());
    }
    server.until("all are accepted", |counts| counts.active() == 2000).await;
    let start = Instant::now();
    server.handle().drain(SECOND);
    for client in &mut clients {
        assert_eq!(rest(client).await, "");
    }
    drop(clients);
    assert_reasons(&server.over().await, &[(CloseReason::Drained, 2000)]);
    assert_eq!(start.elapsed(), Duration::ZERO);
}

/// A burst of so many lines, and what a shouter answers.
fn burst(lines: usize) -> (String, String) {
    let request: String = (0..lines).map(|i| format!("line {i}\n")).collect();
    let answer = request.to_uppercase();
    (request, answer)
}

#[tokio::test(start_paused = true)]
async fn frames_already_received_are_answered_over_memory() {
    // More lines than are served in one turn, and half a line that is no frame.
    for lines in [1, 255, 256, 257, 3000] {
        let (server, connector) = on_memory(Server::new(), shouter()).await;
        let mut client = connector.connect().await.unwrap();
        ask(&mut client, "a\n", "A\n").await;
        let (request, answer) = burst(lines);
        client.write_all(request.as_bytes()).await.unwrap();
        client.write_all(b"half a li").await.unwrap();
        server.handle().drain(LONG);
        assert_eq!(rest(&mut client).await, answer, "{lines} lines");
        drop(client);
        assert_reasons(&server.over().await, &[(CloseReason::Drained, 1)]);
    }
}

#[tokio::test]
async fn frames_already_received_are_answered_over_tcp() {
    for lines in [1, 255, 256, 257, 3000] {
        let server = on_tcp(Server::new(), shouter()).await;
        let mut client = server.connect().await;
        client.set_nodelay(true).unwrap();
        ask(&mut client, "a\n", "A\n").await;
        settle().await;
        let (request, answer) = burst(lines);
        // One thread: the server does not run between these two, and nobody has told it yet that there is something to
        // read.
        assert_eq!(client.try_write(request.as_bytes()).unwrap(), request.len());
        server.handle().drain(LONG);
        assert_eq!(rest(&mut client).await, answer, "{lines} lines");
        drop(client);
        assert_reasons(&server.over().await, &[(CloseReason::Drained, 1)]);
    }
}

#[tokio::test]
async fn frames_already_received_are_answered_over_unix_sockets() {
    let path = TempPath::new();
    let server = Running::start(Server::new().listen(path.endpoint()).serve(shouter())).await;
    let mut client = UnixStream::connect(path.path()).await.unwrap();
    ask(&mut client, "a\n", "A\n").await;
    let (request, answer) = burst(500);
    assert_eq!(client.try_write(request.as_bytes()).unwrap(), request.len());
    server.handle().drain(LONG);
    assert_eq!(rest(&mut client).await, answer);
    drop(client);
    assert_reasons(&server.over().await, &[(CloseReason::Drained, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_connection_in_the_queue_when_the_drain_begins_is_served() {
    // More than one turn of a task may accept.
    for connections in [1, 17, 300] {
        let (server, connector) = on_memory(Server::new(), shouter()).await;
        settle().await;
        let mut clients = Vec::new();
        for _ in 0..connections {
            let mut client = connector.try_connect().unwrap();
            client.write_all(b"early\n").await.unwrap();
            clients.push(client);
        }
        server.handle().drain(LONG);
        for client in &mut clients {
            assert_eq!(rest(client).await, "EARLY\n");
        }
        drop(clients);
        assert_reasons(&server.over().await, &[(CloseReason::Drained, connections)]);
    }
}

#[tokio::test]
async fn a_tcp_connection_in_the_backlog_when_the_drain_begins_is_served() {
    for connections in [1, 17, 300] {
        let server = on_tcp(Server::new(), shouter()).await;
        settle().await;
        let addr = server.tcp_addr(0);
        let mut clients = Vec::new();
        for _ in 0..connections {
            // A blocking connect: the server does not run meanwhile.
            let mut client = std::net::TcpStream::connect(addr).unwrap();
            io::Write::write_all(&mut client, b"early\n").unwrap();
            client.set_nonblocking(true).unwrap();
            clients.push(client);
        }
        server.handle().drain(LONG);
        for client in clients {
            let mut client = TcpStream::from_std(client).unwrap();
            assert_eq!(rest(&mut client).await, "EARLY\n");
        }
        assert_reasons(&server.over().await, &[(CloseReason::Drained, connections)]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_connects_during_a_drain_is_refused_or_served_and_never_left_hanging() {
    let server = on_tcp(Server::new(), shouter()).await;
    let addr = server.tcp_addr(0);
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        clients.spawn(async move {
            let mut served = 0_u64;
            // Until the listener is gone.
            while let Ok(mut client) = TcpStream::connect(addr).await {
                let mut heard = Vec::new();
                let done = async {
                    client.write_all(b"a\n").await?;
                    client.shutdown().await?;
                    client.read_to_end(&mut heard).await
                };
                match timeout(Duration::from_secs(20), done).await.expect("an answer or an error") {
                    Ok(_) => {
                        assert!(heard == b"A\n" || heard.is_empty(), "{heard:?}");
                        served += u64::from(!heard.is_empty());
                    }
                    Err(error) => assert!(
                        matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe),
                        "{error}"
                    ),
                }
            }
            served
        });
    }
    server.until("it is busy", |counts| counts.closed_in_all() > 50).await;
    server.handle().drain(LONG);
    let served: u64 = clients.join_all().await.into_iter().sum();
    let counts = server.over().await;
    let closed = counts.closed(CloseReason::Done) + counts.closed(CloseReason::Drained);
    assert_eq!((closed, counts.closed_in_all()), (counts.accepted(), counts.accepted()), "{counts:?}");
    assert!(served <= counts.accepted(), "{served} of {counts:?}");
    // A connection that got no answer was told to drain before its request had arrived.
    assert!(counts.accepted() - served <= 4, "{served} of {counts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_busy_call_finishes_and_its_answer_arrives() {
    let (gate, inside) = (Arc::new(Semaphore::new(0)), Gauge::default());
    let (server, connector) = on_memory(Server::new(), gated(&gate, &inside)).await;
    let mut client = connector.connect().await.unwrap();
    client.write_all(b"one\ntwo\nthree\nhal").await.unwrap();
    until("the call is under way", || inside.now() == 1).await;
    server.handle().drain(LONG);
    sleep(SECOND).await;
    assert!(!server.is_over());
    gate.add_permits(3);
    assert_eq!(rest(&mut client).await, "ONE\nTWO\nTHREE\n", "and the frames behind it, which had arrived");
    drop(client);
    assert_reasons(&server.over().await, &[(CloseReason::Drained, 1)]);
}

#[tokio::test(start_paused = true)]
async fn concurrent_calls_finish_and_their_answers_arrive() {
    let gate = Arc::new(Semaphore::new(0));
    let open = Arc::clone(&gate);
    let service = service_fn(move |line: Bytes| {
        let gate = Arc::clone(&gate);
        async move {
            gate.acquire().await?.forget();
            Ok(shout(&line))
        }
    });
    let (server, connector) = on_memory(Server::new(), framed(Lines::lf(), service).concurrent(4)).await;
    let mut client = connector.connect().await.unwrap();
    client.write_all(b"a\nb\nc\nd\ne\nf\n").await.unwrap();
    settle().await;
    server.handle().drain(LONG);
    settle().await;
    open.add_permits(6);
    assert_eq!(rest(&mut client).await, "A\nB\nC\nD\nE\nF\n");
    drop(client);
    server.over().await;
}

#[tokio::test(start_paused = true)]
async fn the_deadline_aborts_what_is_left_exactly_then() {
    let (gate, inside) = (Arc::new(Semaphore::new(0)), Gauge::default());
    let (server, connector) = on_memory(Server::new(), gated(&gate, &inside)).await;
    let mut stuck = connector.connect().await.unwrap();
    let mut idle = connector.connect().await.unwrap();
    stuck.write_all(b"never answered\n").await.unwrap();
    until("the call is under way", || inside.now() == 1).await;
    let start = Instant::now();
    server.handle().drain(Duration::from_millis(7300));
    assert_eq!(rest(&mut idle).await, "");
    drop(idle);
    assert_cut(&mut stuck).await;
    assert_eq!(start.elapsed(), Duration::from_millis(7300));
    let counts = server.over().await;
    assert_eq!(start.elapsed(), Duration::from_millis(7300));
    assert_reasons(&counts, &[(CloseReason::Aborted, 1), (CloseReason::Drained, 1)]);
    assert_eq!(inside.now(), 0, "the call was dropped");
}

#[tokio::test(start_paused = true)]
async fn stop_ends_everything_at_once() {
    let (gate, inside) = (Arc::new(Semaphore::new(0)), Gauge::default());
    let (server, connector) = on_memory(Server::new(), gated(&gate, &inside)).await;
    let mut stuck = connector.connect().await.unwrap();
    let mut idle = connector.connect().await.unwrap();
    stuck.write_all(b"never answered\n").await.unwrap();
    until("the call is under way", || inside.now() == 1).await;
    let mut queued = connector.try_connect().unwrap();
    let start = Instant::now();
    server.handle().stop();
    assert_cut(&mut stuck).await;
    assert_cut(&mut idle).await;
    assert_reset(&mut queued).await;
    assert_reasons(&server.over().await, &[(CloseReason::Aborted, 2)]);
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn stop_cuts_a_drain_short() {
    let (gate, inside) = (Arc::new(Semaphore::new(0)), Gauge::default());
    let (server, connector) = on_memory(Server::new(), gated(&gate, &inside)).await;
    let mut stuck = connector.connect().await.unwrap();
    stuck.write_all(b"never answered\n").await.unwrap();
    until("the call is under way", || inside.now() == 1).await;
    let start = Instant::now();
    server.handle().drain(LONG);
    sleep(SECOND).await;
    server.handle().stop();
    // Too late: it is over.
    server.handle().drain(LONG);
    assert_reasons(&server.over().await, &[(CloseReason::Aborted, 1)]);
    assert_eq!(start.elapsed(), SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_second_drain_changes_the_deadline() {
    for (first, then, end) in [(600, 3, 4), (3, 10, 11)] {
        let (gate, inside) = (Arc::new(Semaphore::new(0)), Gauge::default());
        let (server, connector) = on_memory(Server::new(), gated(&gate, &inside)).await;
        let mut stuck = connector.connect().await.unwrap();
        stuck.write_all(b"never answered\n").await.unwrap();
        until("the call is under way", || inside.now() == 1).await;
        let start = Instant::now();
        server.handle().drain(Duration::from_secs(first));
        sleep(SECOND).await;
        server.handle().drain(Duration::from_secs(then));
        assert_reasons(&server.over().await, &[(CloseReason::Aborted, 1)]);
        assert_eq!(start.elapsed(), Duration::from_secs(end));
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_of_nothing_aborts_who_is_busy_and_one_without_end_waits() {
    for within in [Duration::ZERO, Duration::MAX] {
        let (gate, inside) = (Arc::new(Semaphore::new(0)), Gauge::default());
        let (server, connector) = on_memory(Server::new(), gated(&gate, &inside)).await;
        let mut busy = connector.connect().await.unwrap();
        busy.write_all(b"slow\n").await.unwrap();
        until("the call is under way", || inside.now() == 1).await;
        server.handle().drain(within);
        if within.is_zero() {
            assert_reasons(&server.over().await, &[(CloseReason::Aborted, 1)]);
            continue;
        }
        sleep(Duration::from_secs(100_000)).await;
        gate.add_permits(1);
        assert_eq!(rest(&mut busy).await, "SLOW\n");
        drop(busy);
        assert_reasons(&server.over().await, &[(CloseReason::Drained, 1)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_tasks_may_drain_at_once() {
    let (server, connector) = on_memory(Server::new(), shouter()).await;
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "a\n", "A\n").await;
    let mut tasks = JoinSet::new();
    for _ in 0..100 {
        let handle = server.handle().clone();
        tasks.spawn(async move {
            handle.drain(LONG);
            handle.ended().await;
        });
    }
    assert_eq!(rest(&mut client).await, "");
    drop(client);
    timeout(SECOND, tasks.join_all()).await.unwrap();
    assert_reasons(&server.over().await, &[(CloseReason::Drained, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_server_told_to_drain_before_it_serves_serves_who_had_come_and_ends() {
    let (endpoint, connector) = memory::endpoint();
    let mut early = connector.connect().await.unwrap();
    early.write_all(b"early\n").await.unwrap();
    let serve = Server::new().listen(endpoint).serve(shouter());
    serve.handle().drain(LONG);
    let server = Running::start(serve).await;
    assert_eq!(rest(&mut early).await, "EARLY\n");
    drop(early);
    assert_reasons(&server.over().await, &[(CloseReason::Drained, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_server_told_to_stop_before_it_serves_accepts_nobody() {
    let (endpoint, connector) = memory::endpoint();
    let mut early = connector.connect().await.unwrap();
    let serve = Server::new().listen(endpoint).serve(shouter());
    serve.handle().stop();
    let server = Running::start(serve).await;
    assert_reset(&mut early).await;
    assert_eq!(server.over().await.accepted(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_handler_may_drain_its_own_server() {
    let handle = Arc::new(OnceLock::<Handle>::new());
    let ours = Arc::clone(&handle);
    let service = service_fn(move |line: Bytes| {
        let handle = Arc::clone(&ours);
        async move {
            if line == "shutdown" {
                handle.get().unwrap().drain(LONG);
                yield_now().await;
            }
            Ok(shout(&line))
        }
    });
    let (server, connector) = on_memory(Server::new(), framed(Lines::lf(), service)).await;
    handle.set(server.handle().clone()).unwrap();
    let mut other = connector.connect().await.unwrap();
    ask(&mut other, "a\n", "A\n").await;
    let mut client = connector.connect().await.unwrap();
    client.write_all(b"b\nshutdown\nc\n").await.unwrap();
    let start = Instant::now();
    assert_eq!(rest(&mut client).await, "B\nSHUTDOWN\nC\n", "its answer arrives, and what had come behind it");
    assert_eq!(rest(&mut other).await, "");
    drop((client, other));
    assert_reasons(&server.over().await, &[(CloseReason::Drained, 2)]);
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_waits_for_the_end_of_its_own_server_is_aborted_at_the_deadline() {
    let handle = Arc::new(OnceLock::<Handle>::new());
    let ours = Arc::clone(&handle);
    let service = service_fn(move |line: Bytes| {
        let handle = Arc::clone(&ours);
        async move {
            let handle = handle.get().unwrap();
            handle.drain(5 * SECOND);
            handle.ended().await;
            Ok(line)
        }
    });
    let (server, connector) = on_memory(Server::new(), framed(Lines::lf(), service)).await;
    handle.set(server.handle().clone()).unwrap();
    let mut client = connector.connect().await.unwrap();
    let start = Instant::now();
    client.write_all(b"a\n").await.unwrap();
    assert_cut(&mut client).await;
    assert_reasons(&server.over().await, &[(CloseReason::Aborted, 1)]);
    assert_eq!(start.elapsed(), 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_session_sees_that_it_is_draining_and_says_goodbye() {
    async fn chat(mut s: Session<Lines>) -> Result {
        assert!(!s.is_draining());
        s.reply("hello")?;
        while let Some(line) = s.next().await? {
            s.reply(shout(&line))?;
        }
        s.reply(if s.is_draining() { "the server goes down" } else { "you go" })
    }
    let (server, connector) = on_memory(Server::new(), session(Lines::lf(), chat)).await;
    let mut leaves = connector.connect().await.unwrap();
    ask(&mut leaves, "a\n", "hello\nA\n").await;
    leaves.shutdown().await.unwrap();
    assert_eq!(rest(&mut leaves).await, "you go\n");
    drop(leaves);

    let mut idle = connector.connect().await.unwrap();
    expect(&mut idle, "hello\n").await;
    let mut talks = connector.connect().await.unwrap();
    expect(&mut talks, "hello\n").await;
    talks.write_all(b"one\ntwo\nhal").await.unwrap();
    server.handle().drain(LONG);
    assert_eq!(rest(&mut idle).await, "the server goes down\n");
    assert_eq!(rest(&mut talks).await, "ONE\nTWO\nthe server goes down\n");
    drop((idle, talks));
    assert_reasons(&server.over().await, &[(CloseReason::Done, 1), (CloseReason::Drained, 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ignores_the_drain_is_aborted_at_the_deadline() {
    let deaf = session(Lines::lf(), async |s: Session<Lines>| {
        let closing = s.closing();
        pending::<()>().await;
        drop((s, closing));
        Ok(())
    });
    let (server, connector) = on_memory(Server::new(), deaf).await;
    let mut client = connector.connect().await.unwrap();
    let start = Instant::now();
    server.handle().drain(3 * SECOND);
    assert_cut(&mut client).await;
    assert_eq!(start.elapsed(), 3 * SECOND);
    assert_reasons(&server.over().await, &[(CloseReason::Aborted, 1)]);
}

/// Sends as fast as it is read, and reads as fast as it is answered, until the connection ends; how much it sent after
/// `drained` says so.
async fn flood(client: MemoryStream, handle: Handle) -> usize {
    let (mut from, mut to) = split(client);
    let reading = tokio::spawn(async move {
        let mut buf = vec![0; 65_536];
        while matches!(from.read(&mut buf).await, Ok(1..)) {}
    });
    let line = [b"a".repeat(1023), b"\n".to_vec()].concat();
    let mut sent = 0;
    // It does not care that the server has closed its side: it goes on as long as somebody takes it.
    while to.write_all(&line).await.is_ok() {
        if handle.is_draining() {
            sent += line.len();
        }
    }
    reading.await.unwrap();
    sent
}

#[tokio::test(start_paused = true)]
async fn a_client_that_keeps_sending_does_not_hold_the_drain_beyond_its_bound() {
    let (server, connector) = on_memory(Server::new(), shouter()).await;
    let client = connector.connect().await.unwrap();
    let flood = tokio::spawn(flood(client, server.handle().clone()));
    settle().await;
    let start = Instant::now();
    server.handle().drain(LONG);
    let sent = timeout(LONG, flood).await.unwrap().unwrap();
    assert_reasons(&server.over().await, &[(CloseReason::Drained, 1)]);
    assert!(start.elapsed() <= LINGER, "{:?}", start.elapsed());
    // What a kernel may hold, what a lingering close still takes, and what fits on the way.
    assert!(sent < (8 + 16 + 1) << 20, "{sent} bytes");
}

#[tokio::test(start_paused = true)]
async fn a_large_burst_received_before_the_drain_is_answered_whole() {
    let (endpoint, connector) = memory::endpoint_with_capacity(8 << 20);
    let server = Running::start(Server::new().listen(endpoint).serve(shouter())).await;
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "a\n", "A\n").await;
    let request = [b"b".repeat(1023), b"\n".to_vec()].concat().repeat(7 << 10);
    client.write_all(&request).await.unwrap();
    server.handle().drain(LONG);
    let answer = rest(&mut client).await;
    assert_eq!(answer.len(), request.len());
    drop(client);
    server.over().await;
}

#[tokio::test(start_paused = true)]
async fn a_large_burst_of_raw_bytes_received_before_the_drain_is_echoed_whole() {
    let (endpoint, connector) = memory::endpoint_with_capacity(8 << 20);
    let echo = framed(RawBytes, reply_fn(|bytes: Bytes| bytes));
    let server = Running::start(Server::new().listen(endpoint).serve(echo)).await;
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "a", "a").await;
    let request = vec![b'b'; 7 << 20];
    client.write_all(&request).await.unwrap();
    server.handle().drain(LONG);
    assert_eq!(rest(&mut client).await.len(), request.len());
    drop(client);
    server.over().await;
}

#[tokio::test(start_paused = true)]
async fn answers_a_slow_peer_has_yet_to_take_are_not_lost() {
    let (endpoint, connector) = memory::endpoint_with_capacity(1024);
    let many = reply_fn(|line: Bytes| Reply::many(std::iter::repeat_n(line, 500)));
    let server = Running::start(Server::new().listen(endpoint).serve(framed(Lines::lf(), many))).await;
    let mut client = connector.connect().await.unwrap();
    let line = "x".repeat(999) + "\n";
    client.write_all(line.as_bytes()).await.unwrap();
    settle().await;
    server.handle().drain(LONG);
    let mut heard = 0;
    let mut buf = [0; 1000];
    loop {
        sleep(Duration::from_millis(10)).await;
        match client.read(&mut buf).await.unwrap() {
            0 => break,
            n => heard += n,
        }
    }
    assert_eq!(heard, 500 * line.len());
    drop(client);
    assert_reasons(&server.over().await, &[(CloseReason::Drained, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_knows_of_no_drain_has_until_the_deadline() {
    let (server, connector) = on_memory(Server::new(), Hold::default()).await;
    let mut quick = connector.connect().await.unwrap();
    let mut slow = connector.connect().await.unwrap();
    ask(&mut quick, "a", "a").await;
    ask(&mut slow, "a", "a").await;
    server.handle().drain(5 * SECOND);
    sleep(SECOND).await;
    ask(&mut quick, "still served", "still served").await;
    drop(quick);
    let counts = server.over().await;
    assert_reasons(&counts, &[(CloseReason::Aborted, 1), (CloseReason::Drained, 1)]);
    assert_cut(&mut slow).await;
}
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_frame_sent_before_the_drain_is_lost_on_many_threads() {
    for round in 0..20 {
        let server = on_tcp(Server::new(), shouter()).await;
        let mut clients = JoinSet::new();
        let mut sent = Vec::new();
        for i in 0..20 {
            let mut client = server.connect().await;
            ask(&mut client, "a\n", "A\n").await;
            let (request, answer) = burst(1 + round * i);
            assert_eq!(client.try_write(request.as_bytes()).unwrap(), request.len());
            sent.push((client, answer));
        }
        server.handle().drain(LONG);
        for (mut client, answer) in sent {
            clients.spawn(async move { assert_eq!(rest(&mut client).await, answer) });
        }
        clients.join_all().await;
        assert_reasons(&server.over().await, &[(CloseReason::Drained, 20)]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_in_the_backlog_when_the_drain_begins_is_served_on_many_threads() {
    for _ in 0..200 {
        let server = on_tcp(Server::new(), shouter()).await;
        let mut client = std::net::TcpStream::connect(server.tcp_addr(0)).unwrap();
        io::Write::write_all(&mut client, b"early\n").unwrap();
        client.set_nonblocking(true).unwrap();
        server.handle().drain(LONG);
        let mut client = TcpStream::from_std(client).unwrap();
        assert_eq!(rest(&mut client).await, "EARLY\n");
        drop(client);
        assert_reasons(&server.over().await, &[(CloseReason::Drained, 1)]);
    }
}
