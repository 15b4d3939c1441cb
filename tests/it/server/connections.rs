//! Connections as objects: listed, drained and aborted through the handle, and what layers,
//! services and sessions know of them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ropewalk::connection::ReadDeadlines;
use ropewalk::{
    CloseReason, Connection, ConnectionInfo, Lines, ReadDeadlineLayer, Reply, Result, Server,
    Session, per_connection, reply_fn, session,
};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep};
use tower::Service;
use tower::util::MapRequestLayer;

use crate::harness::{
    self, ask, assert_reasons, assert_reset, expect, on_memory, on_tcp, rest, settle, shouter,
};

const SECOND: Duration = Duration::from_secs(1);

/// Answers at once, but for `stay`, which takes an hour.
async fn stays(mut s: Session<Lines>) -> Result {
    while let Some(line) = s.next().await? {
        s.send(&line).await?;
        if line == "stay" {
            s.during(sleep(Duration::from_secs(3600))).await?;
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_handle_lists_the_open_connections_and_the_ones_a_filter_selects() {
    let (server, connector) = on_memory(Server::new(), shouter()).await;
    assert!(server.handle().connections().is_empty());
    let mut first = connector.connect().await.unwrap();
    let mut second = connector.connect().await.unwrap();
    ask(&mut first, "one\n", "ONE\n").await;
    ask(&mut second, "one\ntwo\n", "ONE\nTWO\n").await;
    let all = server.handle().connections();
    assert_eq!(all.len(), 2);
    let busy = server.handle().connections_where(|connection| connection.stats().frames_in() == 2);
    assert_eq!(busy.len(), 1);
    assert_eq!(busy[0].stats().bytes_out(), 8);
    assert_eq!((busy[0].peer().to_string(), busy[0].listener()), ("memory:".to_owned(), 0));
    drop((first, second));
    server.until("both have left", |counts| counts.active() == 0).await;
    assert!(server.handle().connections().is_empty());
    // The handles outlive their connections.
    assert!(all.iter().all(|connection| connection.closing().reason() == Some(CloseReason::Done)));
    assert_eq!(server.end().await.accepted(), 2);
}

#[tokio::test(start_paused = true)]
async fn of_connections_that_are_drained_one_that_does_not_end_is_aborted_at_the_deadline() {
    let (server, connector) = on_memory(Server::new(), session(Lines::lf(), stays)).await;
    let mut idle = connector.connect().await.unwrap();
    let mut busy = connector.connect().await.unwrap();
    let mut other = connector.connect().await.unwrap();
    ask(&mut idle, "go\n", "go\n").await;
    ask(&mut busy, "stay\n", "stay\n").await;
    ask(&mut other, "go on\n", "go on\n").await;
    let start = Instant::now();
    let wanted = server.handle().connections_where(|connection| connection.stats().bytes_in() < 6);
    assert_eq!(wanted.len(), 2);
    server.handle().drain_these(&wanted, 5 * SECOND);
    drop(wanted);
    assert_eq!(rest(&mut idle).await, "");
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_reset(&mut busy).await;
    assert_eq!(start.elapsed(), 5 * SECOND);
    ask(&mut other, "still here\n", "still here\n").await;
    drop(other);
    assert_reasons(
        &server.end().await,
        &[(CloseReason::Done, 1), (CloseReason::Aborted, 1), (CloseReason::Drained, 1)],
    );
}

#[tokio::test(start_paused = true)]
async fn one_connection_is_aborted_and_the_others_go_on() {
    let (server, connector) = on_memory(Server::new(), shouter()).await;
    let mut first = connector.connect().await.unwrap();
    ask(&mut first, "one\n", "ONE\n").await;
    let info = server.handle().connections().remove(0);
    let mut second = connector.connect().await.unwrap();
    info.abort();
    assert_reset(&mut first).await;
    ask(&mut second, "two\n", "TWO\n").await;
    drop(second);
    assert_reasons(&server.end().await, &[(CloseReason::Done, 1), (CloseReason::Aborted, 1)]);
}

/// What a layer leaves on a connection.
struct Tenant(&'static str);

#[tokio::test(start_paused = true)]
async fn a_session_finds_the_extensions_set_by_a_layer() {
    let layer = MapRequestLayer::new(|connection: Connection| {
        assert!(connection.info().insert(Tenant("green")).is_none());
        connection
    });
    let greet = session(Lines::lf(), async |mut s: Session<Lines>| {
        let tenant = s.info().get::<Tenant>().map(|tenant| tenant.0);
        s.feed(format!("{tenant:?} {:?}", s.info().get::<String>()))
    });
    let (server, connector) = on_memory(Server::new().layer(layer), greet).await;
    assert_eq!(rest(&mut connector.connect().await.unwrap()).await, "Some(\"green\") None\n");
    harness::all_done(server).await;
}

#[tokio::test(start_paused = true)]
async fn a_service_of_frames_knows_its_connection_and_leaves_something_there() {
    let service = per_connection(Lines::lf(), |connection| {
        assert_eq!(connection.listener(), 0);
        let connection: ConnectionInfo = connection.info();
        reply_fn(move |line: Bytes| {
            let before = connection.insert(line);
            Reply::maybe(before.map(|line: Arc<Bytes>| Bytes::clone(&line)))
        })
    });
    let (server, connector) = on_memory(Server::new(), service).await;
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "one\ntwo\n", "one\n").await;
    assert_eq!(*server.handle().connections()[0].get::<Bytes>().unwrap(), "two");
    drop(client);
    harness::all_done(server).await;
}

/// Has no deadline once it was told to wait.
fn patient() -> impl Service<Connection, Response = (), Error = ropewalk::Error, Future: Send>
+ Clone
+ Send
+ 'static {
    per_connection(Lines::lf(), |connection| {
        let connection = connection.info();
        reply_fn(move |line: Bytes| {
            if line == "subscribe" {
                connection.set_read_deadlines(ReadDeadlines::OFF);
            }
            line
        })
    })
}

#[tokio::test(start_paused = true)]
async fn a_service_of_frames_changes_how_long_its_peer_is_waited_for() {
    let (server, connector) =
        on_memory(Server::new().layer(ReadDeadlineLayer::new()), patient()).await;
    let mut subscriber = connector.connect().await.unwrap();
    ask(&mut subscriber, "subscribe\n", "subscribe\n").await;
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "hello\n", "hello\n").await;
    let start = Instant::now();
    assert_eq!(rest(&mut client).await, "");
    assert_eq!(start.elapsed(), 60 * SECOND);
    sleep(1000 * SECOND).await;
    ask(&mut subscriber, "hello\n", "hello\n").await;
    drop(subscriber);
    assert_reasons(&server.end().await, &[(CloseReason::Done, 1), (CloseReason::IdleTimeout, 1)]);
}

#[tokio::test(start_paused = true)]
async fn deadlines_that_a_handle_gives_hold_for_the_wait_that_is_under_way_and_the_last_ones_given_stand()
 {
    let service = session(Lines::lf(), async |mut s: Session<Lines>| {
        s.set_read_deadlines(ReadDeadlines::OFF);
        s.info().set_read_deadlines(ReadDeadlines::OFF.idle(3 * SECOND));
        assert_eq!(s.read_deadlines().idle, Some(3 * SECOND));
        s.set_read_deadlines(ReadDeadlines::OFF.idle(7 * SECOND));
        assert_eq!(s.read_deadlines().idle, Some(7 * SECOND));
        while let Some(line) = s.next().await? {
            s.feed(line)?;
        }
        Ok(())
    });
    let (server, connector) = on_memory(Server::new(), service).await;
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "one\n", "one\n").await;
    let start = Instant::now();
    settle().await;
    sleep(SECOND).await;
    server.handle().connections()[0].set_read_deadlines(ReadDeadlines::OFF.idle(2 * SECOND));
    assert_eq!(rest(&mut client).await, "");
    assert_eq!(start.elapsed(), 2 * SECOND);
    assert_reasons(&server.end().await, &[(CloseReason::IdleTimeout, 1)]);
}

#[tokio::test]
async fn connections_of_workers_are_listed_too() {
    let server = on_tcp(Server::new().workers(2), shouter()).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = server.connect().await;
        client.write_all(b"x\n").await.unwrap();
        expect(&mut client, "X\n").await;
        clients.push(client);
    }
    let connections = server.handle().connections();
    assert_eq!(connections.len(), 8);
    server.handle().drain_these(&connections, 60 * SECOND);
    for mut client in clients {
        assert_eq!(rest(&mut client).await, "");
    }
    assert_reasons(&server.end().await, &[(CloseReason::Drained, 8)]);
}
