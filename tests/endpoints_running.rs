//! Endpoints that are added, removed, paused and resumed while the server runs.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use ropewalk::{Addr, EndpointState, Handle, Lines, Result, Server, framed, reply_fn};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(200);

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
async fn a_drain_serves_what_waits_on_a_paused_endpoint() {
    let (handle, server) = running(false).await;
    handle.pause_endpoint(0).await.unwrap();
    let asking = tokio::spawn(ask(connect(&handle, 0).await, "hi"));
    tokio::task::yield_now().await;
    handle.drain(LONG);
    assert_eq!(timeout(LONG, asking).await.expect("it is accepted").unwrap().unwrap(), "main hi");
    timeout(LONG, server).await.expect("the server ends").unwrap().unwrap();
}

#[tokio::test]
async fn what_can_not_be_done_says_why() {
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
