//! A server begins and ends in order, and so does what it manages.

use std::io;
use std::sync::{Arc, OnceLock};

use ropewalk::memory;
use ropewalk::server::Lifecycle;
use ropewalk::{Addr, CloseReason, Error, Handle, Lines, Result, Server, Session, session};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::harness::{
    Events, Hold, LONG, Running, ask, assert_cut, assert_reasons, assert_reset, audit, on_memory,
    rest, settle,
};

/// Notes its start and its stop; fails where told to.
struct Noted {
    name: &'static str,
    events: Events,
    handle: Arc<OnceLock<Handle>>,
    fails_to_start: bool,
    fails_to_stop: bool,
}

impl Noted {
    fn new(name: &'static str, events: &Events) -> Self {
        let handle = Arc::new(OnceLock::new());
        Self { name, events: events.clone(), handle, fails_to_start: false, fails_to_stop: false }
    }
}

impl Lifecycle for Noted {
    async fn start(&mut self) -> Result {
        if let Some(handle) = self.handle.get() {
            assert_eq!(
                (handle.addresses().len(), handle.counts().accepted()),
                (1, 0),
                "bound, and nothing accepted"
            );
        }
        settle().await;
        if self.fails_to_start {
            return Err(Error::other(format!("{} does not start", self.name)));
        }
        self.events.note(format!("start {}", self.name));
        Ok(())
    }

    async fn stop(&mut self) -> Result {
        if let Some(handle) = self.handle.get() {
            assert_eq!(handle.counts().active(), 0, "the last connection has gone");
        }
        settle().await;
        self.events.note(format!("stop {}", self.name));
        if self.fails_to_stop {
            Err(Error::other(format!("{} does not stop", self.name)))
        } else {
            Ok(())
        }
    }
}

#[tokio::test(start_paused = true)]
async fn lifecycles_start_in_order_before_the_first_accept_and_stop_in_reverse_after_the_last_connection()
 {
    let events = Events::default();
    let (endpoint, connector) = memory::endpoint();
    // It waits in the queue before anything starts.
    let mut client = connector.connect().await.unwrap();
    let handle = Arc::new(OnceLock::new());
    let noted = |name| Noted { handle: Arc::clone(&handle), ..Noted::new(name, &events) };
    let noting = events.clone();
    let service = session(Lines::lf(), move |mut s: Session<Lines>| {
        let events = noting.clone();
        async move {
            events.note("connection begins");
            while s.next().await?.is_some() {}
            s.feed("bye")?;
            s.close().await?;
            events.note("connection ends");
            Ok(())
        }
    });
    let listening = events.clone();
    let serve = Server::new()
        .manage(noted("first"))
        .listen(endpoint)
        .manage(noted("second"))
        .on_listening(move |addresses| listening.note(format!("listening on {}", addresses[0])))
        .manage(noted("third"))
        .serve(service);
    handle.set(serve.handle()).unwrap();
    let server = Running::start(serve).await;

    server.until("it is accepted", |counts| counts.active() == 1).await;
    let client = tokio::spawn(async move { rest(&mut client).await });
    server.end().await;
    assert_eq!(client.await.unwrap(), "bye\n");
    let expected = [
        "start first",
        "start second",
        "start third",
        "listening on memory:",
        "connection begins",
        "connection ends",
        "stop third",
        "stop second",
        "stop first",
    ];
    assert_eq!(events.all(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_stops_earlier_resources_in_reverse_and_ends_the_server() {
    let events = Events::default();
    let (endpoint, connector) = memory::endpoint();
    let mut client = connector.connect().await.unwrap();
    let listening = events.clone();
    let serve = Server::new()
        .listen(endpoint)
        .manage(Noted::new("first", &events))
        // The error of a stop is not the one that is reported.
        .manage(Noted { fails_to_stop: true, ..Noted::new("second", &events) })
        .manage(Noted { fails_to_start: true, ..Noted::new("third", &events) })
        .manage(Noted::new("fourth", &events))
        .on_listening(move |_| listening.note("listening"))
        .serve(Hold::default());
    let server = Running::start(serve).await;

    let (counts, error) = server.fails().await;
    assert_eq!(error.to_string(), "third does not start");
    assert_eq!(events.all(), ["start first", "start second", "stop second", "stop first"]);
    assert_eq!(counts.accepted(), 0);
    assert_reset(&mut client).await;
    assert_eq!(connector.connect().await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_fails_does_not_keep_the_others_from_stopping_and_is_reported() {
    let events = Events::default();
    let server = Server::new()
        .manage(Noted::new("first", &events))
        .manage(Noted { fails_to_stop: true, ..Noted::new("second", &events) })
        .manage(Noted { fails_to_stop: true, ..Noted::new("third", &events) });
    let (server, _connector) = on_memory(server, Hold::default()).await;
    server.handle().drain(LONG);
    let (_, error) = server.fails().await;
    assert_eq!(error.to_string(), "third does not stop", "the first one that failed");
    let all =
        ["start first", "start second", "start third", "stop third", "stop second", "stop first"];
    assert_eq!(events.all(), all);
}

#[tokio::test(start_paused = true)]
async fn on_listening_is_called_once_with_the_addresses() {
    let (say, mut said) = mpsc::unbounded_channel();
    let (endpoint, connector) = memory::endpoint();
    let server = Server::new()
        .listen("tcp:127.0.0.1:0")
        .listen(endpoint)
        .on_listening(move |addresses| say.send(addresses.to_vec()).unwrap())
        .serve(Hold::default());
    let handle = server.handle();
    let server = Running::start(server).await;
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "x", "x").await;
    drop(client);
    server.until("it has closed", |counts| counts.active() == 0).await;
    server.end().await;
    assert_eq!(said.recv().await.as_deref(), Some(handle.addresses()));
    assert_eq!(said.recv().await, None);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_server_aborts_its_connections_and_ends_it() {
    let (server, connector) = on_memory(Server::new(), Hold::default()).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = connector.connect().await.unwrap();
        ask(&mut client, "x", "x").await;
        clients.push(client);
    }
    let handle = server.handle().clone();
    assert_reasons(&server.cut_off().await, &[(CloseReason::Aborted, 20)]);
    for mut client in clients {
        assert_cut(&mut client).await;
    }
    assert_eq!(connector.connect().await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    timeout(LONG, handle.ended()).await.expect("a server that was dropped has ended");
}

#[tokio::test(start_paused = true)]
async fn a_handle_outlives_its_server() {
    let (server, connector) = on_memory(Server::new(), Hold::default()).await;
    let handle = server.handle().clone();
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "x", "x").await;
    drop(client);
    server.until("it has closed", |counts| counts.active() == 0).await;
    server.end().await;
    handle.drain(LONG);
    handle.stop();
    handle.set_max_connections(1);
    timeout(LONG, handle.ended()).await.expect("it has ended, and stays so");
    assert_eq!(handle.counts().accepted(), 1);
    assert_eq!(handle.addresses(), [Addr::Memory]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_ran_has_ended_when_it_is_dropped() {
    let (endpoint, connector) = memory::endpoint();
    let unbound = Server::new().listen(endpoint.clone()).serve(Hold::default());
    let handle = unbound.handle();
    drop(unbound);
    timeout(LONG, handle.ended()).await.expect("dropped before it was bound");

    let bound = Server::new().listen(endpoint).serve(Hold::default()).bind().await.unwrap();
    let handle = bound.handle();
    let mut client = connector.connect().await.unwrap();
    drop(bound);
    timeout(LONG, handle.ended()).await.expect("dropped before it served");
    assert_reset(&mut client).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_could_not_be_bound_has_ended() {
    let serve = Server::new().listen("tcp:nowhere").serve(Hold::default());
    let handle = serve.handle();
    serve.await.unwrap_err();
    timeout(LONG, handle.ended()).await.expect("it has ended");
    audit(&handle);
}
