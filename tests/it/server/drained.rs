//! Connections that are drained by the handle, one at a time and again and again.

use std::sync::Arc;
use std::time::Duration;

use ropewalk::{CloseReason, Server};
use tokio::io::AsyncWriteExt;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use crate::harness::{Gauge, ask, assert_reasons, expect, gated, on_memory, settle};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

#[tokio::test(start_paused = true)]
async fn draining_connections_leaves_one_task_and_it_ends_with_the_last_of_them() {
    let gate = Arc::new(Semaphore::new(0));
    let (server, connector) = on_memory(Server::new(), gated(&gate, &Gauge::default())).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = connector.connect().await.unwrap();
        client.write_all(b"a\n").await.unwrap();
        clients.push(client);
    }
    server.until("all are served", |counts| counts.active() == 3).await;
    let before = tasks();
    for _ in 0..100 {
        for connection in server.handle().connections() {
            server.handle().drain_these(&[connection], DAY);
        }
    }
    settle().await;
    assert_eq!(tasks(), before + 1);
    let start = Instant::now();
    gate.add_permits(3);
    for client in &mut clients {
        expect(client, "A\n").await;
    }
    drop(clients);
    server.until("all have gone", |counts| counts.active() == 0).await;
    sleep(2 * SECOND).await;
    assert_eq!(tasks(), before - 3, "no timer is left");
    assert!(start.elapsed() < 5 * SECOND);
    // And it begins again.
    let mut late = connector.connect().await.unwrap();
    gate.add_permits(1);
    ask(&mut late, "b\n", "B\n").await;
    late.write_all(b"c\n").await.unwrap();
    settle().await;
    server.handle().drain_these(&server.handle().connections(), 5 * SECOND);
    let start = Instant::now();
    server.until("it was aborted", |counts| counts.active() == 0).await;
    assert!((5..6).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert_reasons(&server.end().await, &[(CloseReason::Aborted, 1), (CloseReason::Drained, 3)]);
}

#[tokio::test(start_paused = true)]
async fn of_two_deadlines_the_earlier_one_stands_in_whatever_order_they_come() {
    for [first, second] in [[5 * SECOND, DAY], [DAY, 5 * SECOND]] {
        let gate = Arc::new(Semaphore::new(0));
        let (server, connector) = on_memory(Server::new(), gated(&gate, &Gauge::default())).await;
        let mut client = connector.connect().await.unwrap();
        client.write_all(b"a\n").await.unwrap();
        server.until("it is served", |counts| counts.active() == 1).await;
        let connections = server.handle().connections();
        let start = Instant::now();
        server.handle().drain_these(&connections, first);
        settle().await;
        server.handle().drain_these(&connections, second);
        server.until("it was aborted", |counts| counts.active() == 0).await;
        assert!((5..6).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
        assert_reasons(&server.end().await, &[(CloseReason::Aborted, 1)]);
    }
}
