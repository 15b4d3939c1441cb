//! How many a server serves at once, and through which service.

use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use ropewalk::memory;
use ropewalk::{CloseReason, Connection, Error, Result, Server};
use tokio::io::AsyncWriteExt;
use tower::{Layer, Service};

use crate::harness::{
    Events, Hold, Running, ask, assert_cut, assert_reasons, assert_reset, expect, on_memory,
    on_tcp, settle,
};

#[tokio::test]
async fn max_connections_leaves_the_rest_in_the_backlog_and_is_live() {
    let hold = Hold::default();
    let gauge = hold.0.clone();
    // Where connections make room it is looked every 100 ms, and a wake-up that is lost costs no
    // more than that.
    let server = on_tcp(Server::new().max_connections(2).make_room(None), hold).await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(server.connect().await);
    }
    let (mut first, mut third) = (clients.remove(0), clients.remove(1));
    ask(&mut first, "1", "1").await;
    ask(&mut clients[0], "2", "2").await;
    third.write_all(b"3").await.unwrap();
    settle().await;
    assert_eq!(
        (server.counts().accepted(), gauge.now()),
        (2, 2),
        "the others are not even accepted"
    );

    drop(first);
    expect(&mut third, "3").await;
    assert_eq!(server.handle().max_connections(), 2);
    server.handle().set_max_connections(5);
    server.until("all are accepted", |counts| counts.accepted() == 6).await;
    assert_eq!(server.counts().active(), 5);

    // Lowered, it ends nobody.
    server.handle().set_max_connections(1);
    let mut late = server.connect().await;
    for client in &mut clients {
        ask(client, "still here", "still here").await;
    }
    assert_eq!(server.counts().accepted(), 6);
    drop((clients, third));
    ask(&mut late, "late", "late").await;
    assert_eq!((gauge.most(), server.counts().active()), (5, 1));
    drop(late);
    server.until("all have closed", |counts| counts.active() == 0).await;
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_listener_with_a_long_queue_does_not_shut_out_the_others() {
    let (busy, to_busy) = memory::endpoint();
    let (quiet, to_quiet) = memory::endpoint();
    let mut crowd = Vec::new();
    for _ in 0..100 {
        crowd.push(to_busy.connect().await.unwrap());
    }
    let mut client = to_quiet.connect().await.unwrap();
    let server = Server::new().listen(busy).listen(quiet).max_connections(2).serve(Hold::default());
    let server = Running::start(server).await;
    ask(&mut client, "x", "x").await;
    assert_eq!(server.counts().accepted(), 2);
    drop((crowd, client));
    server.until("all are gone", |counts| counts.closed_in_all() == 101).await;
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn two_servers_in_one_process_have_counts_of_their_own() {
    let (one, to_one) = on_memory(Server::new(), Hold::default()).await;
    let (two, to_two) = on_memory(Server::new().max_connections(3), Hold::default()).await;
    let mut clients = Vec::new();
    for connector in [&to_one, &to_two, &to_two] {
        let mut client = connector.connect().await.unwrap();
        ask(&mut client, "x", "x").await;
        clients.push(client);
    }
    assert_eq!((one.counts().active(), two.counts().active()), (1, 2));
    assert_eq!(two.handle().max_connections(), 3);
    assert_ne!(one.handle().max_connections(), 3);
    one.handle().stop();
    assert_eq!(one.over().await.accepted(), 1);
    assert_cut(&mut clients[0]).await;
    ask(&mut clients[1], "the other goes on", "the other goes on").await;
    drop(clients);
    two.until("all have closed", |counts| counts.active() == 0).await;
    assert_eq!(two.end().await.accepted(), 2);
}

/// Ready so many times, then failed for ever; after each, it holds its connection.
struct ReadyFor {
    left: usize,
    then: Option<&'static str>,
    inner: Hold,
}

impl Service<Connection> for ReadyFor {
    type Response = ();
    type Error = Error;
    type Future = <Hold as Service<Connection>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result> {
        match (self.left, self.then) {
            (1.., _) => Poll::Ready(Ok(())),
            (0, Some(error)) => Poll::Ready(Err(Error::other(error))),
            (0, None) => Poll::Pending,
        }
    }

    fn call(&mut self, connection: Connection) -> Self::Future {
        self.left -= 1;
        self.inner.call(connection)
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_to_be_ready_ends_the_server_after_its_connections() {
    let service = ReadyFor { left: 2, then: Some("out of everything"), inner: Hold::default() };
    let (server, connector) = on_memory(Server::new(), service).await;
    let mut first = connector.connect().await.unwrap();
    let mut second = connector.connect().await.unwrap();
    server.until("two are accepted", |counts| counts.accepted() == 2).await;
    settle().await;
    assert_eq!(connector.connect().await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    ask(&mut first, "still", "still").await;
    ask(&mut second, "served", "served").await;
    drop(first);
    settle().await;
    assert!(!server.is_over(), "one is left");
    assert!(server.handle().is_draining());
    drop(second);
    let (counts, error) = server.fails().await;
    assert_eq!(error.to_string(), "out of everything");
    assert_reasons(&counts, &[(CloseReason::Drained, 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_panics_in_poll_ready_ends_the_server_with_an_error() {
    #[derive(Clone)]
    struct Panics;
    impl Service<Connection> for Panics {
        type Response = ();
        type Error = Error;
        type Future = std::future::Ready<Result>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result> {
            panic!("no connection is to blame")
        }
        fn call(&mut self, _: Connection) -> Self::Future {
            unreachable!()
        }
    }
    let (server, _connector) = on_memory(Server::new(), Panics).await;
    let (_, error) = server.fails().await;
    assert!(error.to_string().contains("no connection is to blame"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_never_ready_keeps_a_drain_to_its_deadline_and_no_longer() {
    for left in [0, 1] {
        let service = ReadyFor { left, then: None, inner: Hold::default() };
        let (server, connector) = on_memory(Server::new(), service).await;
        let mut clients = [connector.connect().await.unwrap(), connector.connect().await.unwrap()];
        settle().await;
        assert_eq!(server.counts().accepted(), left as u64);
        if left == 1 {
            ask(&mut clients[0], "x", "x").await;
            clients[0].shutdown().await.unwrap();
        }
        let start = tokio::time::Instant::now();
        // The deadline is in 60 s.
        server.end().await;
        assert_eq!(start.elapsed(), Duration::from_secs(60));
        assert_reset(&mut clients[1]).await;
    }
}

/// Asserts what tower asks of callers: ready before each call, and on the very service that is
/// called.
struct Strict(bool);

impl Service<Connection> for Strict {
    type Response = ();
    type Error = Error;
    type Future = std::future::Ready<Result>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result> {
        self.0 = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Connection) -> Self::Future {
        assert!(std::mem::take(&mut self.0), "called without having been readied");
        std::future::ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn the_service_is_readied_before_every_call() {
    let (server, connector) = on_memory(Server::new(), Strict(false)).await;
    for _ in 0..50 {
        connector.connect().await.unwrap();
    }
    server.until("all were served", |counts| counts.closed_in_all() == 50).await;
    assert_reasons(&server.end().await, &[(CloseReason::Done, 50)]);
}

#[tokio::test(start_paused = true)]
async fn the_first_layer_added_sees_a_connection_first() {
    struct Noting<S>(S, Events, &'static str);
    impl<S: Service<Connection>> Service<Connection> for Noting<S> {
        type Response = S::Response;
        type Error = S::Error;
        type Future = S::Future;
        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
            self.0.poll_ready(cx)
        }
        fn call(&mut self, connection: Connection) -> S::Future {
            self.1.note(self.2);
            self.0.call(connection)
        }
    }
    struct NotingLayer(Events, &'static str);
    impl<S> Layer<S> for NotingLayer {
        type Service = Noting<S>;
        fn layer(&self, inner: S) -> Noting<S> {
            Noting(inner, self.0.clone(), self.1)
        }
    }
    let events = Events::default();
    let noting = |name| NotingLayer(events.clone(), name);
    let server =
        Server::new().layer(noting("outer")).layer(noting("middle")).layer(noting("inner"));
    let (server, connector) = on_memory(server, Strict(false)).await;
    connector.connect().await.unwrap();
    server.until("it was served", |counts| counts.closed_in_all() == 1).await;
    assert_eq!(events.all(), ["outer", "middle", "inner"]);
    server.end().await;
}
