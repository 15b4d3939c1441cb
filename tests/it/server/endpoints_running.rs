//! Endpoints that are added, removed, paused and resumed while the server runs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use ropewalk::connection::Stream;
use ropewalk::endpoint::Listener;
use ropewalk::server::EndpointState;
use ropewalk::{Addr, Endpoint, Handle, Lines, Peer, Result, Server, framed, memory, reply_fn};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::harness::{settle, until};

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(200);
const BLOCKED: Duration = Duration::from_millis(500);

fn named(name: &'static str) -> impl Fn(Bytes) -> Bytes + Clone + Send + Sync + 'static {
    move |line| Bytes::from(format!("{name} {}", String::from_utf8_lossy(&line)))
}

/// A server of two services, without workers or with three.
async fn running(workers: bool) -> (Handle, JoinHandle<Result>) {
    let server = Server::new();
    let server = if workers { server.workers(3) } else { server };
    let server = server
        .listen("tcp:127.0.0.1:0")
        .serve_on("other", ["tcp:127.0.0.1:0"], framed(Lines::lf(), reply_fn(named("other"))))
        .serve(framed(Lines::lf(), reply_fn(named("main"))))
        .bind()
        .await
        .unwrap();
    let handle = server.handle();
    let server = tokio::spawn(server);
    // It accepts: endpoints can be changed from now on.
    ask(connect(&handle, 0).await, "hi").await.unwrap();
    (handle, server)
}

fn address(handle: &Handle, number: usize) -> SocketAddr {
    match handle.endpoints()[number].address() {
        Addr::Tcp(address) => *address,
        other => unreachable!("not TCP: {other}"),
    }
}

async fn connect(handle: &Handle, number: usize) -> TcpStream {
    TcpStream::connect(address(handle, number)).await.unwrap()
}

async fn ask(mut stream: TcpStream, line: &str) -> std::io::Result<String> {
    stream.write_all(format!("{line}\n").as_bytes()).await?;
    let mut answer = String::new();
    timeout(LONG, BufReader::new(stream).read_line(&mut answer)).await.expect("an answer comes")?;
    Ok(answer.trim_end().to_owned())
}

async fn end(handle: Handle, server: JoinHandle<Result>) {
    handle.drain(LONG);
    timeout(LONG, server).await.expect("the server ends").unwrap().unwrap();
}

async fn an_endpoint_comes_and_goes(workers: bool) {
    let (handle, server) = running(workers).await;
    let number = handle.add_endpoint("other", "tcp:127.0.0.1:0").await.unwrap();
    assert_eq!(number, 2);
    // It is bound already, and served by its service.
    for _ in 0..8 {
        assert_eq!(ask(connect(&handle, number).await, "hi").await.unwrap(), "other hi");
    }
    let endpoint = &handle.endpoints()[number];
    assert_eq!((endpoint.service(), endpoint.state()), ("other", EndpointState::Open));
    assert_eq!(endpoint.counts().accepted(), 8);
    let open = connect(&handle, number).await;
    let open = BufReader::new(open);
    let gone = address(&handle, number);
    handle.remove_endpoint(number).await.unwrap();
    assert_eq!(handle.endpoints()[number].state(), EndpointState::Removed);
    assert!(TcpStream::connect(gone).await.is_err(), "nothing listens there");
    // A connection that had connected is served.
    assert_eq!(ask(open.into_inner(), "still here").await.unwrap(), "other still here");
    assert!(handle.remove_endpoint(number).await.is_err(), "it is gone");
    assert_eq!(ask(connect(&handle, 0).await, "hi").await.unwrap(), "main hi");
    end(handle, server).await;
}

#[tokio::test]
async fn an_endpoint_is_added_to_a_service_and_removed() {
    an_endpoint_comes_and_goes(false).await;
}

#[tokio::test]
async fn workers_accept_on_an_endpoint_that_is_added_and_close_it_when_it_is_removed() {
    an_endpoint_comes_and_goes(true).await;
}

async fn an_endpoint_rests(workers: bool) {
    let (handle, server) = running(workers).await;
    handle.pause_endpoint(0).await.unwrap();
    assert_eq!(handle.endpoints()[0].state(), EndpointState::Paused);
    let waiting = connect(&handle, 0).await;
    let mut asking = tokio::spawn(ask(waiting, "hi"));
    assert!(timeout(SHORT, &mut asking).await.is_err(), "it is not accepted");
    assert_eq!(ask(connect(&handle, 1).await, "hi").await.unwrap(), "other hi");
    handle.resume_endpoint(0).await.unwrap();
    assert_eq!(timeout(LONG, asking).await.expect("it is accepted").unwrap().unwrap(), "main hi");
    end(handle, server).await;
}

#[tokio::test]
async fn a_paused_endpoint_leaves_connections_in_its_backlog_until_it_is_resumed() {
    an_endpoint_rests(false).await;
}

#[tokio::test]
async fn workers_pause_and_resume_an_endpoint() {
    an_endpoint_rests(true).await;
}

#[tokio::test]
async fn a_drain_serves_connections_that_wait_on_a_paused_endpoint() {
    let (handle, server) = running(false).await;
    handle.pause_endpoint(0).await.unwrap();
    let asking = tokio::spawn(ask(connect(&handle, 0).await, "hi"));
    tokio::task::yield_now().await;
    handle.drain(LONG);
    assert_eq!(timeout(LONG, asking).await.expect("it is accepted").unwrap().unwrap(), "main hi");
    timeout(LONG, server).await.expect("the server ends").unwrap().unwrap();
}

async fn preambles_under_way_are_served(workers: bool) {
    let (handle, server) = running(workers).await;
    let number =
        handle.add_endpoint("main", "proxy+tcp:127.0.0.1:0?trust=127.0.0.1").await.unwrap();
    let mut begun = connect(&handle, number).await;
    begun.write_all(b"PROXY UNK").await.unwrap();
    until("its header is under way", || handle.endpoints()[number].preambles().pending() == 1)
        .await;
    handle.pause_endpoint(number).await.unwrap();
    let mut later = connect(&handle, number).await;
    later.write_all(b"PROXY UNKNOWN\r\n").await.unwrap();
    begun.write_all(b"NOWN\r\n").await.unwrap();
    assert_eq!(ask(begun, "hi").await.unwrap(), "main hi");
    assert_eq!(handle.endpoints()[number].preambles().begun(), 1, "the later one is not taken");
    handle.resume_endpoint(number).await.unwrap();
    assert_eq!(ask(later, "hi").await.unwrap(), "main hi");
    end(handle, server).await;
}

#[tokio::test]
async fn a_paused_endpoint_serves_connections_whose_preamble_had_begun() {
    preambles_under_way_are_served(false).await;
}

#[tokio::test]
async fn workers_serve_connections_of_a_paused_endpoint_whose_preamble_had_begun() {
    preambles_under_way_are_served(true).await;
}

#[tokio::test]
async fn an_impossible_request_says_why() {
    let (handle, server) = running(false).await;
    let text = |result: Result<usize>| result.unwrap_err().to_string();
    assert!(text(handle.add_endpoint("nobody", "tcp:127.0.0.1:0").await).contains("nobody"));
    assert!(text(handle.add_endpoint("main", "tcp:nowhere").await).contains("nowhere"));
    let taken = format!("tcp:{}", address(&handle, 0));
    assert!(text(handle.add_endpoint("main", taken.as_str()).await).contains(&taken));
    assert!(handle.pause_endpoint(7).await.unwrap_err().to_string().contains('7'));
    assert_eq!(handle.endpoints().len(), 2);
    let late = handle.clone();
    end(handle, server).await;
    assert!(text(late.add_endpoint("main", "tcp:127.0.0.1:0").await).contains("does not accept"));
}

/// A server of one worker, which a line `block` blocks for a moment.
async fn blocked() -> (Handle, JoinHandle<Result>) {
    let called = Arc::new(AtomicBool::new(false));
    let begun = Arc::clone(&called);
    let answer = move |line: Bytes| {
        if line == "block" {
            begun.store(true, Ordering::SeqCst);
            std::thread::sleep(BLOCKED);
        }
        line
    };
    let server = Server::new()
        .workers(1)
        .listen("tcp:127.0.0.1:0")
        .serve(framed(Lines::lf(), reply_fn(answer)));
    let server = server.bind().await.unwrap();
    let handle = server.handle();
    let server = tokio::spawn(server);
    ask(connect(&handle, 0).await, "hi").await.unwrap();
    let mut blocks = connect(&handle, 0).await;
    blocks.write_all(b"block\n").await.unwrap();
    until("it is called", || called.load(Ordering::SeqCst)).await;
    (handle, server)
}

#[tokio::test]
async fn an_endpoint_added_just_before_a_drain_serves_its_backlog() {
    let (handle, server) = blocked().await;
    let number = handle.add_endpoint("main", "tcp:127.0.0.1:0").await.unwrap();
    let client = connect(&handle, number).await;
    handle.drain(LONG);
    assert_eq!(ask(client, "hi").await.unwrap(), "hi");
    timeout(LONG, server).await.expect("the server ends").unwrap().unwrap();
}

#[tokio::test]
async fn a_blocked_worker_hears_of_a_removal_behind_a_hundred_other_changes() {
    let (handle, server) = blocked().await;
    let number = handle.add_endpoint("main", "tcp:127.0.0.1:0").await.unwrap();
    let address = address(&handle, number);
    let changes = (0..100).map(|n| {
        let handle = handle.clone();
        tokio::spawn(async move {
            if n % 2 == 0 {
                handle.pause_endpoint(number).await
            } else {
                handle.resume_endpoint(number).await
            }
        })
    });
    let changes: Vec<_> = changes.collect();
    settle().await;
    timeout(LONG, handle.remove_endpoint(number)).await.expect("the worker goes on").unwrap();
    for change in changes {
        // One that came behind the removal finds no endpoint.
        drop(timeout(LONG, change).await.expect("it is made").unwrap());
    }
    assert!(TcpStream::connect(address).await.is_err(), "a worker listens on");
    end(handle, server).await;
}

/// A listener that holds a connection which never comes, and counts its last calls.
struct Holds(Arc<AtomicUsize>);

impl Listener for Holds {
    fn poll_accept(&mut self, _: &mut Context<'_>) -> Poll<(Stream, Peer)> {
        Poll::Pending
    }

    fn last_call(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn has_pending(&self) -> bool {
        true
    }

    fn local_addr(&self) -> Addr {
        Addr::Memory
    }
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_was_removed_has_no_second_last_call_when_the_server_drains() {
    let calls = Arc::new(AtomicUsize::new(0));
    let (endpoint, connector) = memory::endpoint();
    let server =
        Server::new().listen(endpoint).listen(Endpoint::from_listener(Holds(Arc::clone(&calls))));
    let server = server.serve(framed(Lines::lf(), reply_fn(named("main")))).bind().await.unwrap();
    let handle = server.handle();
    let server = tokio::spawn(server);
    // Accepted, so that endpoints can be changed.
    let mut client = connector.connect().await.unwrap();
    client.write_all(b"hi\n").await.unwrap();
    BufReader::new(client).read_line(&mut String::new()).await.unwrap();
    let removing = handle.clone();
    let removing = tokio::spawn(async move { removing.remove_endpoint(1).await });
    settle().await;
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    handle.drain(SHORT);
    drop(timeout(LONG, server).await.expect("the server ends"));
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    drop(removing);
}

#[tokio::test(start_paused = true)]
async fn a_change_that_a_drain_overtakes_fails_at_once_and_not_at_the_end_of_the_grace() {
    let (endpoint, connector) = memory::endpoint();
    let server = Server::new().readiness_grace(SHORT).drain_within(LONG).listen(endpoint);
    let server = server.serve(framed(Lines::lf(), reply_fn(named("main")))).bind().await.unwrap();
    let handle = server.handle();
    let server = tokio::spawn(server);
    let mut client = connector.connect().await.unwrap();
    client.write_all(b"hi\n").await.unwrap();
    BufReader::new(client).read_line(&mut String::new()).await.unwrap();
    let began = tokio::time::Instant::now();
    handle.drain(LONG);
    // The server has not noticed the drain yet.
    assert!(handle.pause_endpoint(0).await.is_err());
    assert!(began.elapsed() < SHORT, "{:?}", began.elapsed());
    timeout(LONG, server).await.expect("the server ends").unwrap().unwrap();
}

#[tokio::test]
async fn of_two_additions_of_one_address_at_the_same_moment_one_fails() {
    let (handle, server) = running(true).await;
    for _ in 0..20 {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let text = format!("tcp:{free}");
        let [one, other] = [(); 2].map(|()| handle.add_endpoint("main", text.as_str()));
        let (one, other) = tokio::join!(one, other);
        assert_ne!(one.is_ok(), other.is_ok(), "{one:?}, {other:?}");
        let number = one.or(other).unwrap();
        assert_eq!(ask(connect(&handle, number).await, "hi").await.unwrap(), "main hi");
        handle.remove_endpoint(number).await.unwrap();
        assert!(TcpStream::connect(free).await.is_err(), "nothing listens there");
    }
    end(handle, server).await;
}

#[tokio::test]
async fn a_change_can_be_repeated_but_a_removal_can_not() {
    let (handle, server) = running(false).await;
    for _ in 0..2 {
        handle.resume_endpoint(0).await.unwrap();
    }
    assert_eq!(ask(connect(&handle, 0).await, "hi").await.unwrap(), "main hi");
    for _ in 0..2 {
        handle.pause_endpoint(0).await.unwrap();
    }
    handle.remove_endpoint(0).await.unwrap();
    assert!(handle.remove_endpoint(0).await.is_err());
    assert!(handle.resume_endpoint(0).await.is_err(), "it does not come back");
    assert!(handle.pause_endpoint(0).await.is_err());
    assert_eq!(handle.endpoints()[0].state(), EndpointState::Removed);
    end(handle, server).await;
}

#[tokio::test]
async fn a_change_whose_future_is_dropped_is_made_or_not_and_leaves_nothing_half_done() {
    let (handle, server) = running(true).await;
    for polls in 0..8 {
        let mut adding = Box::pin(handle.add_endpoint("main", "tcp:127.0.0.1:0"));
        for _ in 0..polls {
            if futures::poll!(&mut adding).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    // Those that were added are served, and can be removed.
    settle().await;
    let added = handle.add_endpoint("main", "tcp:127.0.0.1:0").await.unwrap();
    for number in 2..=added {
        assert_eq!(ask(connect(&handle, number).await, "hi").await.unwrap(), "main hi");
        let gone = address(&handle, number);
        let mut removing = Box::pin(handle.remove_endpoint(number));
        assert!(futures::poll!(&mut removing).is_pending());
        drop(removing);
        until("it is removed", || handle.endpoints()[number].state() == EndpointState::Removed)
            .await;
        until("nothing listens", || std::net::TcpStream::connect(gone).is_err()).await;
    }
    end(handle, server).await;
}
