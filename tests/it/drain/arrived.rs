//! A drain loses nothing that had arrived when it began.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ropewalk::memory;
use ropewalk::{
    CloseReason, Lines, RawBytes, Reply, Server, Session, framed, reply_fn, service_fn, session,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::harness::{
    Gauge, LONG, Running, TempPath, ask, assert_reasons, gated, on_memory, on_tcp, rest, settle,
    shout, shouter, until,
};

const SECOND: Duration = Duration::from_secs(1);

/// A burst of so many lines, and what a shouter answers.
fn burst(lines: usize) -> (String, String) {
    let request: String = (0..lines).map(|i| format!("line {i}\n")).collect();
    let answer = request.to_uppercase();
    (request, answer)
}

#[tokio::test(start_paused = true)]
async fn frames_already_received_are_answered_over_memory() {
    // More lines than are served in one turn, and half a line, which is not a frame.
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
        // One thread: the server does not run between these two, and nobody has told it yet that
        // there is something to read.
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
async fn a_connection_made_during_a_drain_is_refused_or_served_and_never_left_hanging() {
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
                        matches!(
                            error.kind(),
                            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
                        ),
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
    assert_eq!(
        (closed, counts.closed_in_all()),
        (counts.accepted(), counts.accepted()),
        "{counts:?}"
    );
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
    assert_eq!(
        rest(&mut client).await,
        "ONE\nTWO\nTHREE\n",
        "and the frames behind it, which had arrived"
    );
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
    let (server, connector) =
        on_memory(Server::new(), framed(Lines::lf(), service).concurrent(4)).await;
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

#[tokio::test]
async fn an_upload_comes_whole_when_its_request_had_arrived() {
    let upload = session(Lines::lf().unlimited(), async |mut s: Session<Lines>| {
        while let Some(line) = s.next().await? {
            let raw = s.raw(std::str::from_utf8(&line)?.parse()?).await?;
            s.feed(shout(&raw))?;
        }
        Ok(())
    });
    let server = on_tcp(Server::new(), upload).await;
    let mut client = server.connect().await;
    ask(&mut client, "1\na", "A\n").await;
    assert_eq!(client.try_write(b"100000\n").unwrap(), 7);
    server.handle().drain(LONG);
    settle().await;
    client.write_all(&[b'b'; 100_000]).await.unwrap();
    assert_eq!(rest(&mut client).await, "B".repeat(100_000) + "\n");
    drop(client);
    assert_reasons(&server.over().await, &[(CloseReason::Drained, 1)]);
}

#[tokio::test(start_paused = true)]
async fn answers_a_slow_peer_has_yet_to_take_are_not_lost() {
    let (endpoint, connector) = memory::endpoint_with_capacity(1024);
    let many = reply_fn(|line: Bytes| Reply::many(std::iter::repeat_n(line, 500)));
    let server =
        Running::start(Server::new().listen(endpoint).serve(framed(Lines::lf(), many))).await;
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
async fn connections_in_the_backlog_when_the_drain_begins_are_served_on_many_threads() {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn connections_just_accepted_when_the_drain_begins_are_answered_on_many_threads() {
    for round in 0..20 {
        let server = on_tcp(Server::new(), shouter()).await;
        let addr = server.tcp_addr(0);
        let mut clients: Vec<_> =
            (0..20).map(|_| std::net::TcpStream::connect(addr).unwrap()).collect();
        if round % 2 == 0 {
            server.until("all are accepted", |counts| counts.accepted() == 20).await;
        }
        for client in &mut clients {
            io::Write::write_all(client, b"early\n").unwrap();
            client.set_nonblocking(true).unwrap();
        }
        server.handle().drain(LONG);
        for client in clients {
            assert_eq!(rest(&mut TcpStream::from_std(client).unwrap()).await, "EARLY\n");
        }
        assert_reasons(&server.over().await, &[(CloseReason::Drained, 20)]);
    }
}
