//! The buffers of all connections together stay within the memory budget.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ropewalk::memory::{self, Connector, MemoryStream};
use ropewalk::{
    CloseReason, ConnectionService, Error, LengthPrefixed, Lines, Reply, Server, Session, framed,
    reply_fn, session,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::harness::{Running, ask, expect, on_memory, on_tcp, settle, until};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const BUDGET: usize = MIB;
const SECOND: Duration = Duration::from_secs(1);

/// Answers `big` with 60 KiB and any other line with itself.
fn greedy() -> impl ConnectionService<Error = Error> {
    framed(
        Lines::lf().unlimited(),
        reply_fn(|line: Bytes| if line == "big" { vec![b'x'; 60 * KIB].into() } else { line }),
    )
}

/// A server with a budget of 1 MiB, on a transport that takes next to nothing of its answers by
/// itself.
async fn serve<S: ConnectionService>(leaf: S, budget: usize) -> (Running, Connector) {
    let (endpoint, connector) = memory::endpoint_with_capacity(KIB);
    let server = Server::new().listen(endpoint).memory_budget(budget).serve(leaf);
    (Running::start(server).await, connector)
}

async fn connect(connector: &Connector) -> MemoryStream {
    connector.connect().await.unwrap()
}

/// Sends all of this, however long it takes.
fn send(
    mut client: MemoryStream,
    bytes: impl AsRef<[u8]> + Send + 'static,
) -> tokio::task::JoinHandle<MemoryStream> {
    tokio::spawn(async move {
        drop(client.write_all(bytes.as_ref()).await);
        client
    })
}

/// Waits until memory is not short, as far as that depends on the largest connections.
async fn relieved(server: &Running) {
    sleep(SECOND * 20).await;
    assert!(server.handle().memory().in_use() < BUDGET / 10 * 9, "{:?}", server.handle().memory());
}

#[tokio::test(start_paused = true)]
async fn peers_that_do_not_read_take_no_more_than_the_budget_and_the_largest_are_aborted() {
    let (server, connector) = serve(greedy(), BUDGET).await;
    let mut small = connect(&connector).await;
    let mut clients = Vec::new();
    for n in 0..100 {
        let mut client = connect(&connector).await;
        client.write_all(b"big\nbig\nbig\n").await.unwrap();
        clients.push(client);
        settle().await;
        // The bytes that one connection adds before it is stopped.
        let in_use = server.handle().memory().in_use();
        assert!(in_use <= BUDGET + 128 * KIB, "{in_use} after {n}");
        let asked = Instant::now();
        ask(&mut small, "hello\n", "hello\n").await;
        assert_eq!(asked.elapsed(), Duration::ZERO);
    }
    let counts = server.counts();
    assert!(counts.closed(CloseReason::MemoryBudget) > 50, "{counts:?}");
    let memory = server.handle().memory();
    assert_eq!(
        (memory.aborted(), memory.budget()),
        (counts.closed(CloseReason::MemoryBudget), Some(BUDGET))
    );
    relieved(&server).await;
    ask(&mut small, "hello\n", "hello\n").await;
    drop((clients, small));
    server.until("all are gone", |counts| counts.active() == 0).await;
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn peers_that_all_ask_at_once_take_no_more_than_the_budget() {
    let (server, connector) = serve(greedy(), BUDGET).await;
    let mut clients = Vec::new();
    for _ in 0..500 {
        clients.push(connect(&connector).await);
    }
    settle().await;
    for client in &mut clients {
        client.write_all(b"big\nbig\n").await.unwrap();
    }
    let mut most = 0;
    for _ in 0..1000 {
        tokio::task::yield_now().await;
        most = most.max(server.handle().memory().in_use());
    }
    // The last one to grow may do so once more.
    assert!(most > BUDGET / 2 && most <= BUDGET + 128 * KIB, "{most}");
    drop(clients);
    server.until("all are gone", |counts| counts.active() == 0).await;
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn frames_that_are_never_finished_take_no_more_than_the_budget() {
    let leaf = framed(LengthPrefixed::u32().max(4 * MIB), reply_fn(|frame: Bytes| frame));
    let (server, connector) = serve(leaf, BUDGET).await;
    let mut small = connect(&connector).await;
    let mut half = vec![0, 3, 0, 0];
    half.resize(150 * KIB, b'x');
    let clients: Vec<_> =
        (0..50).map(|_| send(connector.try_connect().unwrap(), half.clone())).collect();
    for _ in 0..2000 {
        settle().await;
        let in_use = server.handle().memory().in_use();
        assert!(in_use <= BUDGET + 128 * KIB, "{in_use}");
    }
    let asked = Instant::now();
    ask(&mut small, "\0\0\0\x05hello", "\0\0\0\x05hello").await;
    assert_eq!(asked.elapsed(), Duration::ZERO);
    // They wait, and nothing gets less; so it is not for long.
    relieved(&server).await;
    assert!(server.closed(CloseReason::MemoryBudget) > 0);
    clients.iter().for_each(tokio::task::JoinHandle::abort);
    drop((clients, small));
    server.until("all are gone", |counts| counts.active() == 0).await;
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_was_not_read_from_is_read_from_again_when_memory_is_free() {
    let leaf = framed(
        LengthPrefixed::u32().max(4 * MIB),
        reply_fn(|frame: Bytes| frame.len().to_string()),
    );
    let (server, connector) = on_memory(Server::new().memory_budget(BUDGET), leaf).await;
    let frame =
        |len: usize| [&u32::try_from(len).unwrap().to_be_bytes()[..], &vec![b'x'; len]].concat();
    let long = frame(500 * KIB);
    // Buffers of about 512, 256, 128 and 64 KiB: together over 90 % of 1 MiB.
    let mut largest = connect(&connector).await;
    largest.write_all(&long[..300 * KIB]).await.unwrap();
    let mut others = Vec::new();
    for size in [150, 80, 40] {
        others.push(send(connect(&connector).await, long[..size * KIB].to_vec()).await.unwrap());
        settle().await;
    }
    assert!((BUDGET / 10 * 9..BUDGET).contains(&server.handle().memory().in_use()));
    let largest = send(largest, long[300 * KIB..].to_vec());
    sleep(SECOND / 2).await;
    assert!(!largest.is_finished(), "it is not read from");
    // One that leaves makes room.
    drop(others.remove(0));
    let mut largest = timeout(SECOND / 4, largest).await.unwrap().unwrap();
    expect(&mut largest, "\0\0\0\x06512000").await;
    assert_eq!(server.closed(CloseReason::MemoryBudget), 0);
    drop((largest, others));
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_in_another_task_is_counted_and_aborted_as_any_other() {
    let leaf = session(Lines::lf(), async |mut s: Session<Lines>| {
        tokio::spawn(async move {
            while let Some(line) = s.next().await? {
                let size = if line == "big" { 600 * KIB } else { 1 };
                s.feed_raw(vec![b'x'; size])?;
                if line == "elsewhere" {
                    sleep(SECOND).await;
                }
            }
            Ok::<_, Error>(())
        });
        Ok(())
    });
    let (server, connector) = serve(leaf, BUDGET).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = connect(&connector).await;
        client.write_all(b"big\n").await.unwrap();
        clients.push(client);
        settle().await;
    }
    assert!(server.closed(CloseReason::MemoryBudget) >= 6, "{:?}", server.counts());
    assert!(server.handle().memory().in_use() <= BUDGET + MIB);
    for client in &mut clients[..4] {
        // It was told by a reset.
        assert!(client.read_to_end(&mut Vec::new()).await.is_err());
    }
    drop(clients);
    server.until("all are gone", |counts| counts.active() == 0).await;
    until("their memory too", || server.handle().memory().in_use() == 0).await;
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn connections_that_keep_their_buffers_after_an_abort_hold_up_the_others_for_a_second_at_most()
 {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&kept);
    let leaf = session(Lines::lf(), move |mut s: Session<Lines>| {
        let kept = Arc::clone(&keep);
        async move {
            while let Some(line) = s.next().await? {
                s.feed(&line)?;
                if line == "keep" {
                    s.feed_raw(vec![b'x'; 300 * KIB])?;
                    kept.lock().unwrap().push(s);
                    return Ok(());
                }
            }
            Ok(())
        }
    });
    let (server, connector) = serve(leaf, BUDGET).await;
    let mut small = connect(&connector).await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = connect(&connector).await;
        client.write_all(b"keep\n").await.unwrap();
        clients.push(client);
        settle().await;
    }
    assert!(server.handle().memory().in_use() > BUDGET);
    for _ in 0..10 {
        let asked = Instant::now();
        ask(&mut small, "hello\n", "hello\n").await;
        assert!(asked.elapsed() <= SECOND, "{:?}", asked.elapsed());
        sleep(SECOND / 3).await;
    }
    kept.lock().unwrap().clear();
    drop((small, clients));
    until("their memory is free", || server.handle().memory().in_use() == 0).await;
    server.until("all are gone", |counts| counts.active() == 0).await;
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_without_a_budget_aborts_no_connection_and_reports_memory_in_use() {
    let (endpoint, connector) = memory::endpoint_with_capacity(KIB);
    let server =
        Running::start(Server::new().listen(endpoint).unlimited_memory().serve(greedy())).await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        let mut client = connect(&connector).await;
        client.write_all(b"big\nbig\n").await.unwrap();
        clients.push(client);
    }
    settle().await;
    let memory = server.handle().memory();
    assert_eq!((memory.budget(), memory.aborted()), (None, 0));
    assert!(memory.in_use() > 100 * 60 * KIB);
    drop(clients);
    server.until("all are gone", |counts| counts.active() == 0).await;
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_budget_of_nothing_serves_connections_that_buffer_nothing() {
    let (server, connector) = serve(greedy(), 0).await;
    let mut small = connect(&connector).await;
    let mut large = connect(&connector).await;
    large.write_all(b"big\n").await.unwrap();
    ask(&mut small, "hello\n", "hello\n").await;
    assert!(large.read_to_end(&mut Vec::new()).await.is_err());
    ask(&mut small, "hello\n", "hello\n").await;
    assert_eq!(server.closed(CloseReason::MemoryBudget), 1);
    drop((small, large));
    server.end().await;
}

#[tokio::test]
async fn the_workers_have_one_budget() {
    let leaf = framed(
        Lines::lf(),
        reply_fn(|_: Bytes| Reply::many((0..1000).map(|_| vec![b'x'; 15 * KIB]))),
    );
    let server = on_tcp(Server::new().workers(3).memory_budget(2 * MIB), leaf).await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        let mut client: TcpStream = server.connect().await;
        // Ended at once, some are.
        drop(client.write_all(b"x\n").await);
        clients.push(send_on(client));
    }
    until("all of it is in use, or was", || server.handle().memory().aborted() > 0).await;
    let memory = server.handle().memory();
    assert!(memory.in_use() < 3 * MIB, "{memory:?}");
    clients.iter().for_each(tokio::task::JoinHandle::abort);
    drop(clients);
    server.until("all are gone", |counts| counts.active() == 0).await;
    server.end().await;
}

/// Begins a long line, and reads nothing.
fn send_on(mut client: TcpStream) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move { while client.write_all(&[b'y'; KIB]).await.is_ok() {} })
}
