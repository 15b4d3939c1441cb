//! A panic in a service of connections ends its own connection, and nothing else.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use ropewalk::{
    CloseReason, Connection, ConnectionLimitLayer, Error, Lines, Result, Server, Session, reply_fn,
    session,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tower::{Layer, Service};

use crate::harness::falls::{SECOND, Turn, answer, ends_its_own_connection_only};
use crate::harness::{ask, assert_cut, assert_reasons, on_memory, on_tcp, until};
use crate::support;

async fn talk(mut s: Session<Lines>) -> Result {
    while let Some(line) = s.next().await? {
        s.feed(answer(&line))?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn in_a_session() {
    ends_its_own_connection_only(session(Lines::lf(), talk)).await;
}

#[tokio::test(start_paused = true)]
async fn before_a_session_awaits_anything() {
    let turn = Turn::default();
    ends_its_own_connection_only(session(Lines::lf(), move |s: Session<Lines>| {
        // Not in the future: in the function that makes it, which the accept loop calls.
        assert!(!turn.is_second(), "on purpose");
        talk(s)
    }))
    .await;
}

#[tokio::test(start_paused = true)]
async fn in_a_driven_session() {
    let greet = async |s: Session<Lines>| s.drive(reply_fn(|line: Bytes| answer(&line))).await;
    ends_its_own_connection_only(session(Lines::lf(), greet)).await;
}

#[tokio::test(start_paused = true)]
async fn in_a_task_a_session_was_moved_to() {
    let moved = session(Lines::lf(), async |s: Session<Lines>| {
        let task = tokio::spawn(talk(s));
        // The author's own task: it is for the author to say what its panic means.
        task.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    });
    ends_its_own_connection_only(moved).await;
}

/// Panics in the call of the second connection, or in what it returns.
#[derive(Clone)]
struct TrapLayer {
    turn: Turn,
    in_call: bool,
}

impl<S> Layer<S> for TrapLayer {
    type Service = Trap<S>;

    fn layer(&self, inner: S) -> Trap<S> {
        Trap { inner, layer: self.clone() }
    }
}

struct Trap<S> {
    inner: S,
    layer: TrapLayer,
}

impl<S: Service<Connection, Error = Error>> Service<Connection> for Trap<S>
where
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection) -> Self::Future {
        let falls = self.layer.turn.is_second();
        assert!(!falls || !self.layer.in_call, "on purpose");
        let served = self.inner.call(connection);
        Box::pin(async move {
            assert!(!falls, "on purpose");
            served.await
        })
    }
}

#[tokio::test(start_paused = true)]
async fn in_the_call_of_a_connection_layer() {
    for in_call in [true, false] {
        let trap = TrapLayer { turn: Turn::default(), in_call };
        ends_its_own_connection_only(trap.layer(session(Lines::lf(), talk))).await;
    }
}

#[tokio::test(start_paused = true)]
async fn in_a_layer_outside_of_the_limit() {
    let limit = ConnectionLimitLayer::new(1).refuse_with("full\n");
    let trap = TrapLayer { turn: Turn::default(), in_call: true };
    let server = Server::new().layer(trap).layer(limit.clone());
    let (server, connector) = on_memory(server, session(Lines::lf(), talk)).await;
    for i in 0..3 {
        let mut client = connector.connect().await.unwrap();
        if i == SECOND {
            assert_cut(&mut client).await;
        } else {
            ask(&mut client, "a\n", "A\n").await;
        }
        drop(client);
        until("its place is free", || limit.active() == 0).await;
    }
    server.until("all have ended", |counts| counts.active() == 0).await;
    assert_reasons(&server.end().await, &[(CloseReason::Done, 2), (CloseReason::Panic, 1)]);
}

#[tokio::test(start_paused = true)]
async fn with_a_payload_that_panics_when_it_is_dropped() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                panic!("and again");
            }
        }
    }
    /// Throws a bomb at the second connection: in the accept loop, or in its task.
    struct Throws {
        in_call: bool,
        turn: Turn,
    }
    impl Service<Connection> for Throws {
        type Response = ();
        type Error = Error;
        type Future = Pin<Box<dyn Future<Output = Result> + Send>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, _: Connection) -> Self::Future {
            if !self.turn.is_second() {
                return Box::pin(async { Ok(()) });
            }
            if self.in_call {
                std::panic::panic_any(Bomb);
            }
            Box::pin(async { std::panic::panic_any(Bomb) })
        }
    }
    for in_call in [true, false] {
        let service = Throws { in_call, turn: Turn::default() };
        let (server, connector) = on_memory(Server::new(), service).await;
        for _ in 0..3 {
            assert_cut(&mut connector.connect().await.unwrap()).await;
        }
        server.until("all have ended", |counts| counts.closed_in_all() == 3).await;
        assert_reasons(&server.end().await, &[(CloseReason::Done, 2), (CloseReason::Panic, 1)]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_panics_cost_their_neighbours_no_frame() {
    let limit = ConnectionLimitLayer::new(40).refuse_with("full\n");
    let server = on_tcp(Server::new().layer(limit.clone()), session(Lines::lf(), talk)).await;
    let addr = server.tcp_addr(0);
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        clients.spawn(async move {
            for _ in 0..250 {
                let mut client = TcpStream::connect(addr).await.unwrap();
                ask(&mut client, "a\n", "A\n").await;
                client.write_all(b"fall\n").await.unwrap();
                drop(client.read_to_end(&mut Vec::new()).await);
            }
        });
    }
    for _ in 0..8 {
        clients.spawn(async move {
            let mut client = TcpStream::connect(addr).await.unwrap();
            for i in 0..300 {
                let line = format!("frame {i}\n");
                ask(&mut client, &line, &line.to_uppercase()).await;
            }
        });
    }
    clients.join_all().await;
    server.until("all have ended", |counts| counts.active() == 0).await;
    assert_eq!((limit.active(), limit.available()), (0, 40));
    assert_reasons(&server.end().await, &[(CloseReason::Done, 8), (CloseReason::Panic, 1000)]);
}

/// The same program ends by SIGABRT where it is built with `panic = "abort"`: `.ci/run` tries that.
#[test]
fn a_program_goes_on_after_a_panic() {
    let (ended, words) = support::run(support::command("panicking"));
    assert!(ended.success(), "{words}");
}
