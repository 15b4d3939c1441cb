//! Connections that wait for a slot when a server ends: they are served when there is one, or
//! counted.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use ropewalk::endpoint::PreambleDrop;
use ropewalk::server::DrainReport;
use ropewalk::{
    CloseReason, Connection, ConnectionLimitLayer, ConnectionService, Error, Handle, Result,
    Server, memory,
};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep};
use tower::{Layer, Service};

use crate::harness::addressed::with_room;
use crate::harness::{ask, assert_cut, on_memory, on_tcp, rest, settle, shouter};

const DRAIN: Duration = Duration::from_secs(10);

fn report(handle: &Handle) -> DrainReport {
    handle.drain_report().expect("the server is over")
}

/// No connection is open whose end could make the service ready; something else may.
#[tokio::test(start_paused = true)]
async fn a_service_that_is_not_ready_is_waited_for_to_the_deadline_though_no_connection_is_open() {
    for becomes_ready in [true, false] {
        let cap = ConnectionLimitLayer::new(1);
        let mut elsewhere = cap.layer(shouter());
        poll_fn(|cx| elsewhere.poll_ready(cx)).await.unwrap();
        assert_eq!(cap.available(), 0, "its place is taken by another server, say");
        let (server, connector) = on_memory(Server::new().layer(cap), shouter()).await;
        let mut clients = [connector.connect().await.unwrap(), connector.connect().await.unwrap()];
        for client in &mut clients {
            client.write_all(b"a\n").await.unwrap();
        }
        settle().await;
        let start = Instant::now();
        let handle = server.handle().clone();
        handle.drain(DRAIN);
        sleep(DRAIN / 2).await;
        assert_eq!(handle.drain_report(), None, "they are waited for");
        if becomes_ready {
            drop(elsewhere);
            for client in &mut clients {
                assert_eq!(rest(client).await, "A\n");
                client.shutdown().await.unwrap();
            }
            server.over().await;
            assert_eq!((start.elapsed(), report(&handle).cut()), (DRAIN / 2, 0));
        } else {
            server.over().await;
            assert_eq!((start.elapsed(), report(&handle).unserved()), (DRAIN, 2));
        }
    }
}

/// A connection that was accepted and waits for a slot is counted, however the server ends.
#[tokio::test(start_paused = true)]
async fn a_server_that_stops_or_fails_counts_accepted_connections_it_did_not_serve() {
    for fails in [false, true] {
        let (server, from) = with_room(1, failing_after(2)).await;
        let mut first = from.host("192.0.2.1");
        ask(&mut first, "a\n", "A\n").await;
        let mut next = from.host("192.0.2.1");
        // Held while the server is full.
        let mut waiting = [from.host("192.0.2.1"), from.host("192.0.2.1")];
        settle().await;
        let handle = server.handle().clone();
        if fails {
            drop(first);
            settle().await;
            drop(next);
            server.fails().await;
        } else {
            handle.stop();
            server.over().await;
            assert_cut(&mut next).await;
        }
        assert_eq!(report(&handle).unserved(), if fails { 2 } else { 3 });
        for client in &mut waiting {
            assert_cut(client).await;
        }
    }
}

/// Those that wait for a place in front of a preamble, too.
#[tokio::test(start_paused = true)]
async fn handshakes_under_way_or_queued_have_time_to_the_deadline_and_are_counted() {
    const CLIENTS: usize = 20;
    let (endpoint, connector) = memory::endpoint();
    let server = Server::new()
        .max_preambles(4)
        .listen(endpoint.proxied([]))
        .serve(shouter())
        .bind()
        .await
        .unwrap();
    let handle = server.handle();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = connector.connect().await.unwrap();
        client.write_all(b"PROXY ").await.unwrap();
        clients.push(client);
    }
    handle.drain(DRAIN / 4);
    let start = Instant::now();
    server.await.unwrap();
    assert_eq!(start.elapsed(), DRAIN / 4);
    settle().await;
    let (report, preambles) = (report(&handle), handle.preambles());
    let dropped = preambles.dropped_for(PreambleDrop::Share);
    assert_eq!(report.unserved() + dropped, CLIENTS as u64, "{preambles:?}");
    assert_eq!(preambles.pending(), 0);
}

#[tokio::test]
async fn workers_count_them_too_before_the_report_is_made() {
    let server = on_tcp(Server::new().workers(1).max_connections(1), shouter()).await;
    let mut first = server.connect().await;
    ask(&mut first, "a\n", "A\n").await;
    // More than it holds while it is full, by one.
    let mut waiting = Vec::new();
    for _ in 0..65 {
        waiting.push(server.connect().await);
    }
    server.until("one was too many", |counts| counts.closed(CloseReason::NoRoom) == 1).await;
    let handle = server.handle().clone();
    handle.stop();
    server.over().await;
    assert_eq!(report(&handle).unserved(), 64);
    drop((first, waiting));
}

/// Serves so many connections, then can't be readied any more.
fn failing_after(connections: usize) -> impl ConnectionService<Error = Error> {
    struct Failing<S>(S, usize);
    impl<S: Service<Connection, Error = Error>> Service<Connection> for Failing<S> {
        type Response = S::Response;
        type Error = Error;
        type Future = S::Future;

        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result> {
            if self.1 == 0 {
                Poll::Ready(Err(Error::other("as asked")))
            } else {
                self.0.poll_ready(cx)
            }
        }

        fn call(&mut self, connection: Connection) -> S::Future {
            self.1 -= 1;
            self.0.call(connection)
        }
    }
    Failing(shouter(), connections)
}
