//! What signals do to a drain: the first begins one, or hastens one that is under way; the second
//! ends it.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use ropewalk::memory::MemoryStream;
use ropewalk::{CloseReason, Lines, Server, Session, session};
use rustix::process::{Signal, getpid, kill_process};
use tokio::io::AsyncWriteExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, MutexGuard, Semaphore};
use tokio::time::Instant;

use crate::encrypted::soon;
use crate::harness::{
    Gauge, LONG, Running, assert_cut, assert_reasons, gated, on_memory, rest, settle, until,
};

/// A signal is for the whole process, so the tests take turns.
static TURN: Mutex<()> = Mutex::const_new(());

/// A server with a request under way, and the client that waits for its answer.
struct Busy {
    server: Running,
    client: MemoryStream,
    gate: Arc<Semaphore>,
    _turn: MutexGuard<'static, ()>,
}

impl Busy {
    async fn start(server: Server) -> Self {
        let turn = TURN.lock().await;
        let (gate, inside) = (Arc::new(Semaphore::new(0)), Gauge::default());
        let (server, connector) = on_memory(server.signals(), gated(&gate, &inside)).await;
        let mut client = connector.connect().await.unwrap();
        client.write_all(b"slow\n").await.unwrap();
        until("the call is under way", || inside.now() == 1).await;
        Self { server, client, gate, _turn: turn }
    }

    /// The request is answered, and the connection drained.
    async fn answered(mut self) {
        self.gate.add_permits(1);
        assert_eq!(soon(rest(&mut self.client)).await, "SLOW\n");
        drop(self.client);
        assert_reasons(&self.server.over().await, &[(CloseReason::Drained, 1)]);
    }

    async fn aborted(mut self) {
        soon(assert_cut(&mut self.client)).await;
        assert_reasons(&soon(self.server.over()).await, &[(CloseReason::Aborted, 1)]);
    }
}

/// Sends this process a signal to end, and waits until all its listeners have received it.
async fn terminate() {
    let mut heard = signal(SignalKind::terminate()).unwrap();
    kill_process(getpid(), Signal::TERM).unwrap();
    heard.recv().await.unwrap();
    settle().await;
}

#[tokio::test]
async fn the_first_signal_aborts_no_connection_though_the_server_drains_already() {
    let busy = Busy::start(Server::new()).await;
    busy.server.handle().drain(LONG);
    terminate().await;
    busy.answered().await;
}

#[tokio::test]
async fn the_first_signal_in_a_drain_leaves_it_the_time_a_signal_gives() {
    let busy = Busy::start(Server::new().drain_within(Duration::from_millis(50))).await;
    busy.server.handle().drain(LONG);
    terminate().await;
    busy.aborted().await;
}

#[tokio::test]
async fn the_second_signal_aborts_remaining_connections() {
    for begun_by_handle in [false, true] {
        let busy = Busy::start(Server::new().drain_within(LONG)).await;
        if begun_by_handle {
            busy.server.handle().drain(LONG);
        }
        terminate().await;
        terminate().await;
        busy.aborted().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_by_a_signal_takes_30_s() {
    let _turn = TURN.lock().await;
    let leaf = session(Lines::lf(), async |_: Session<Lines>| pending().await);
    let (server, connector) = on_memory(Server::new().signals(), leaf).await;
    let _client = connector.connect().await.unwrap();
    server.until("it is served", |counts| counts.active() == 1).await;
    kill_process(getpid(), Signal::TERM).unwrap();
    while !server.handle().is_draining() {
        tokio::task::yield_now().await;
    }
    let begin = Instant::now();
    let counts = server.over().await;
    assert_eq!(
        (begin.elapsed(), counts.closed(CloseReason::Aborted)),
        (Duration::from_secs(30), 1)
    );
}
