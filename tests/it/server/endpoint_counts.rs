//! The counts of each endpoint, and the state of each connection.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use ropewalk::connection::{ConnectionState, Stream};
use ropewalk::endpoint::{Listener, PreambleDrop};
use ropewalk::{
    Addr, CloseReason, ConnectionLimitLayer, Endpoint, Handle, Lines, Peer, Server, Session,
    framed, memory, reply_fn, service_fn, session,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::harness::until;
use crate::wired::{settle, wired, wired_with};

fn sums_agree(handle: &Handle) {
    let (counts, endpoints) = (handle.counts(), handle.endpoints());
    let sum = |count: fn(&ropewalk::server::Counts) -> u64| {
        endpoints.iter().map(|endpoint| count(endpoint.counts())).sum::<u64>()
    };
    assert_eq!(counts.accepted(), sum(ropewalk::server::Counts::accepted));
    assert_eq!(counts.active(), sum(ropewalk::server::Counts::active));
    for reason in CloseReason::ALL {
        assert_eq!(
            counts.closed(reason),
            endpoints.iter().map(|e| e.counts().closed(reason)).sum::<u64>()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn each_endpoint_counts_its_own_connections_bytes_and_frames() {
    let [(a, to_a), (b, to_b)] = [(); 2].map(|()| memory::endpoint());
    let echo = framed(Lines::lf(), reply_fn(|line: Bytes| line));
    let server =
        Server::new().listen(a).serve_on("b", [b], echo.clone()).serve(echo).bind().await.unwrap();
    let handle = server.handle();
    let server = tokio::spawn(server);
    let mut open = to_a.connect().await.unwrap();
    open.write_all(b"12\n34\n").await.unwrap();
    let mut six = [0; 6];
    open.read_exact(&mut six).await.unwrap();
    for _ in 0..2 {
        let mut stream = to_b.connect().await.unwrap();
        stream.write_all(b"123\n").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
    }
    settle().await;
    sums_agree(&handle);
    let [one, other] = &handle.endpoints()[..] else { unreachable!("there are two") };
    assert_eq!((one.number(), one.service(), one.address()), (0, "main", &Addr::Memory));
    assert_eq!((one.counts().accepted(), one.counts().active()), (1, 1));
    assert_eq!((one.bytes_in(), one.bytes_out(), one.frames_in(), one.frames_out()), (6, 6, 2, 2));
    assert_eq!((other.number(), other.service()), (1, "b"));
    assert_eq!((other.counts().accepted(), other.counts().closed(CloseReason::Done)), (2, 2));
    assert_eq!(
        (other.bytes_in(), other.bytes_out(), other.frames_in(), other.frames_out()),
        (8, 8, 2, 2)
    );
    handle.stop();
    server.await.unwrap().unwrap();
    sums_agree(&handle);
    assert_eq!(handle.endpoints()[0].bytes_in(), 6, "a closed connection is counted on");
}

#[tokio::test(start_paused = true)]
async fn refusals_of_layers_are_counted_where_they_happened() {
    let [(a, to_a), (b, to_b)] = [(); 2].map(|()| memory::endpoint());
    let echo = framed(Lines::lf(), reply_fn(|line: Bytes| line));
    let deny = tower::Layer::layer(&ConnectionLimitLayer::new(0).refuse_with("full"), echo.clone());
    let server = Server::new()
        .serve_on("denied", [a], deny)
        .serve_on("open", [b], echo)
        .run()
        .bind()
        .await
        .unwrap();
    let handle = server.handle();
    let server = tokio::spawn(server);
    for connector in [&to_a, &to_b] {
        let mut rest = String::new();
        let mut stream = connector.connect().await.unwrap();
        stream.shutdown().await.unwrap();
        stream.read_to_string(&mut rest).await.unwrap();
    }
    settle().await;
    let refused: Vec<u64> =
        handle.endpoints().iter().map(|endpoint| endpoint.counts().refused()).collect();
    assert_eq!((refused, handle.counts().refused()), (vec![1, 0], 1));
    handle.stop();
    server.await.unwrap().unwrap();
}

/// A listener that never accepts a connection.
struct Broken(u64);

impl Listener for Broken {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<(Stream, Peer)> {
        if self.0 < 3 {
            self.0 += 1;
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    fn accept_errors(&self) -> u64 {
        self.0
    }

    fn local_addr(&self) -> Addr {
        Addr::Memory
    }
}

#[tokio::test(start_paused = true)]
async fn failed_accepts_are_counted() {
    let server = Server::new()
        .listen(memory::endpoint().0)
        .listen(Endpoint::from_listener(Broken(0)))
        .serve(framed(Lines::lf(), reply_fn(|line: Bytes| line)))
        .bind()
        .await
        .unwrap();
    let handle = server.handle();
    let server = tokio::spawn(server);
    settle().await;
    let errors: Vec<u64> =
        handle.endpoints().iter().map(ropewalk::server::EndpointInfo::accept_errors).collect();
    assert_eq!(errors, [0, 3]);
    handle.stop();
    server.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_connection_tells_whether_it_reads_calls_writes_or_lingers() {
    let slow = service_fn(async |line: Bytes| {
        sleep(Duration::from_secs(5)).await;
        Ok(line)
    });
    let mut w = wired(framed(Lines::lf(), slow));
    let info = w.closing.info();
    settle().await;
    assert_eq!(info.state(), ConnectionState::Reading);
    w.say("a\n").await;
    settle().await;
    assert_eq!(info.state(), ConnectionState::Calling);
    w.expect("a\n").await;
    settle().await;
    assert_eq!(info.state(), ConnectionState::Reading);

    let mut w = wired_with(framed(Lines::lf().unlimited(), reply_fn(|line: Bytes| line)), 64);
    let info = w.closing.info();
    let line = format!("{}\n", "x".repeat(40));
    w.say(&line.repeat(2)).await;
    settle().await;
    w.say(&line).await;
    settle().await;
    assert_eq!(info.state(), ConnectionState::Writing);
    w.expect(&line.repeat(3)).await;
    settle().await;
    assert_eq!(info.state(), ConnectionState::Reading);

    let mut w = wired(session(Lines::lf(), async |mut s: Session<Lines>| s.feed("bye")));
    let info = w.closing.info();
    assert_eq!(w.rest().await, "bye\n");
    settle().await;
    assert_eq!(info.state(), ConnectionState::Lingering);
}

#[tokio::test(start_paused = true)]
async fn the_bytes_that_a_peer_has_not_read_are_found_by_its_connection() {
    let (endpoint, connector) = memory::endpoint();
    let echo = framed(Lines::lf(), reply_fn(|line: Bytes| line));
    let server = Server::new().listen(endpoint).serve(echo);
    let handle = server.handle();
    let server = tokio::spawn(server);
    let (mut read, mut write) = tokio::io::split(connector.connect().await.unwrap());
    let writing = tokio::spawn(async move {
        write.write_all("x".repeat(99).as_bytes()).await.unwrap();
        write.write_all(format!("\n{}\n", "x".repeat(99)).repeat(5000).as_bytes()).await.unwrap();
        write
    });
    settle().await;
    let info = handle.connections().remove(0);
    assert_eq!(info.state(), ConnectionState::Writing);
    assert!(info.buffered() > 0);
    let mut all = vec![0; 100 * 5000];
    read.read_exact(&mut all).await.unwrap();
    let _write = writing.await.unwrap();
    settle().await;
    assert_eq!((info.state(), info.buffered()), (ConnectionState::Reading, 0));
    handle.stop();
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn each_endpoint_counts_its_own_preambles_also_one_that_made_room_for_that_of_another() {
    let proxied = "proxy+tcp:127.0.0.1:0?trust=127.0.0.1";
    let echo = framed(Lines::lf(), reply_fn(|line: Bytes| line));
    let server = Server::new()
        .max_preambles(1)
        .listen(proxied)
        .listen(proxied)
        .serve(echo)
        .bind()
        .await
        .unwrap();
    let handle = server.handle();
    let server = tokio::spawn(server);
    let connect = async |number: usize, bytes: &'static [u8]| {
        let Addr::Tcp(address) = handle.endpoints()[number].address().clone() else {
            unreachable!("it is TCP")
        };
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(bytes).await.unwrap();
        client
    };
    let _silent = connect(0, b"").await;
    until("it has the slot", || handle.endpoints()[0].preambles().pending() == 1).await;
    let _failed = connect(1, b"nonsense, and enough of it for a header\r\n").await;
    until("it has failed", || handle.endpoints()[1].preambles().failed() == 1).await;
    let added = handle.add_endpoint("main", proxied).await.unwrap();
    let mut passed = connect(added, b"PROXY UNKNOWN\r\nhi\n").await;
    let mut answer = [0; 3];
    passed.read_exact(&mut answer).await.unwrap();
    let of = |number: usize| {
        let endpoints = handle.endpoints();
        let counts = endpoints[number].preambles();
        [counts.begun(), counts.passed(), counts.failed(), counts.dropped_for(PreambleDrop::Silent)]
    };
    assert_eq!([of(0), of(1), of(added)], [[1, 0, 0, 1], [1, 0, 1, 0], [1, 1, 0, 0]]);
    let all = handle.preambles();
    assert_eq!([all.begun(), all.passed(), all.failed(), all.dropped()], [3, 1, 1, 1]);
    handle.stop();
    server.await.unwrap().unwrap();
}
