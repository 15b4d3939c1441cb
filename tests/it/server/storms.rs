//! Crowds: connections that come, go, break off and send anything, in numbers. The server stays as
//! it was.

use std::collections::HashSet;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use rand::Dice;
use ropewalk::connection::Stream;
use ropewalk::endpoint::Listener;
use ropewalk::{
    Addr, CloseReason, Connection, Endpoint, LengthPrefixed, Lines, Netstring, Peer, RawBytes,
    Result, Server, Session, framed, reply_fn, session,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::harness::{
    self, Gauge, LONG, Running, ask, audit, obedient, on_memory, on_tcp, reset, rest, settle,
    shouter, until,
};

/// Numbers that look random and are the same in every run.
mod rand {
    pub(crate) struct Dice(pub(crate) u64);

    impl Dice {
        pub(crate) fn roll(&mut self, sides: u64) -> u64 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % sides
        }
    }
}

#[tokio::test]
async fn peers_that_reset_in_the_backlog_cost_the_next_one_nothing() {
    let server = on_tcp(Server::new().max_connections(1), shouter()).await;
    let mut first = server.connect().await;
    ask(&mut first, "a\n", "A\n").await;
    for _ in 0..200 {
        reset(server.connect().await);
    }
    let mut next = server.connect().await;
    next.write_all(b"b\n").await.unwrap();
    drop(first);
    let mut answer = [0; 2];
    timeout(LONG, next.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"B\n");
    drop(next);
    let counts = server.end().await;
    assert_eq!(counts.closed(CloseReason::Panic), 0);
    assert_eq!(counts.closed(CloseReason::ServiceError), 0, "{counts:?}");
}

#[tokio::test]
async fn a_backlog_that_overflows_leaves_a_server_that_serves_and_no_answer_is_wrong() {
    let server = Server::new().listen("tcp:127.0.0.1:0?backlog=4").max_connections(1);
    let server = Running::start(server.serve(shouter())).await;
    let address = server.tcp_addr(0);
    let mut first = server.connect().await;
    ask(&mut first, "first\n", "FIRST\n").await;
    let mut crowd = JoinSet::new();
    let (begun, served) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    for i in 0..20 {
        let (begun, served) = (Arc::clone(&begun), Arc::clone(&served));
        crowd.spawn(async move {
            begun.fetch_add(1, Ordering::Relaxed);
            // Beyond the backlog the kernel drops the attempt, and the client tries again after a
            // second.
            let socket = TcpSocket::new_v4().unwrap();
            let Ok(Ok(mut client)) =
                timeout(Duration::from_secs(10), socket.connect(address)).await
            else {
                return;
            };
            if client.write_all(format!("client {i}\n").as_bytes()).await.is_err() {
                return;
            }
            let expected = format!("CLIENT {i}\n");
            let mut answer = vec![0; expected.len()];
            if client.read_exact(&mut answer).await.is_ok() {
                assert_eq!(answer, expected.as_bytes());
                served.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    until("all have tried", || begun.load(Ordering::Relaxed) == 20).await;
    drop(first);
    while let Some(ended) = timeout(LONG, crowd.join_next()).await.unwrap() {
        ended.unwrap();
    }
    assert!(served.load(Ordering::Relaxed) >= 5, "{} were served", served.load(Ordering::Relaxed));
    let mut last = server.connect().await;
    ask(&mut last, "last\n", "LAST\n").await;
    drop(last);
    server.end().await;
}

/// A listener on which somebody always waits.
struct Storm {
    left: usize,
    others: Arc<Mutex<Vec<DuplexStream>>>,
}

impl Listener for Storm {
    fn poll_accept(&mut self, _: &mut Context<'_>) -> Poll<(Stream, Peer)> {
        if self.left == 0 {
            return Poll::Pending;
        }
        self.left -= 1;
        let (ours, theirs) = duplex(64);
        self.others.lock().unwrap().push(theirs);
        Poll::Ready((Stream::from_io(Plain(ours)), Peer::new(Addr::Memory)))
    }

    fn local_addr(&self) -> Addr {
        Addr::Memory
    }
}

/// A duplex stream as a transport.
struct Plain(DuplexStream);

mod plain {
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use ropewalk::connection::Io;
    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    use super::Plain;

    impl Io for Plain {}

    impl AsyncRead for Plain {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Plain {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, buf)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_than_16_connections_are_accepted_before_open_ones_get_their_turn() {
    let others = Arc::default();
    let storm = Endpoint::from_listener(Storm { left: 4000, others: Arc::clone(&others) });
    let server = Running::start(Server::new().listen(storm).serve(shouter())).await;
    let arrivals = Arc::clone(&others);
    let neighbour = tokio::spawn(async move {
        let (mut steps, mut before) = (Vec::new(), 0);
        while before < 4000 {
            // Last in the queue of what is ready; `yield_now` would wait until nothing else is.
            let mut waited = false;
            poll_fn(|cx| {
                cx.waker().wake_by_ref();
                if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            let now = arrivals.lock().unwrap().len();
            steps.extend((now > before).then(|| now - before));
            before = now;
        }
        steps
    });
    let mut steps = neighbour.await.unwrap();
    steps.sort_unstable();
    // Woken from two sides the loop may have two turns in a row.
    assert!(steps[steps.len() - 1] <= 32, "{steps:?}");
    assert_eq!(steps[steps.len() / 2], 16, "{steps:?}");
    drop(std::mem::take(&mut *others.lock().unwrap()));
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn no_two_connections_have_the_same_number() {
    let seen: Arc<Mutex<Vec<u64>>> = Arc::default();
    let numbers = Arc::clone(&seen);
    let service = tower::service_fn(move |connection: Connection| {
        numbers.lock().unwrap().push(connection.id());
        async {
            drop(connection);
            Ok::<_, ropewalk::Error>(())
        }
    });
    let (server, connector) = on_memory(Server::new(), service).await;
    for _ in 0..500 {
        let mut client = connector.connect().await.unwrap();
        assert_eq!(rest(&mut client).await, "");
    }
    server.end().await;
    let seen = seen.lock().unwrap();
    assert_eq!(seen.iter().collect::<HashSet<_>>().len(), 500);
    assert!(seen.is_sorted(), "later connections have higher numbers");
}

#[tokio::test(start_paused = true)]
async fn a_session_may_abort_or_close_before_anything_else_and_its_handle_may_abort_it_twice() {
    let service = session(Lines::lf(), async |s: Session<Lines>| -> Result {
        let closing = s.closing();
        s.abort();
        closing.abort();
        closing.abort();
        Ok(())
    });
    let (server, connector) = on_memory(Server::new(), service).await;
    let mut client = connector.connect().await.unwrap();
    harness::assert_reset(&mut client).await;
    server.until("it is counted", |counts| counts.closed(CloseReason::Aborted) == 1).await;
    server.end().await;

    let service = session(Lines::lf(), async |s: Session<Lines>| s.close().await);
    let (server, connector) = on_memory(Server::new(), service).await;
    let mut client = connector.connect().await.unwrap();
    assert_eq!(rest(&mut client).await, "");
    drop(client);
    server.until("it is counted", |counts| counts.closed(CloseReason::Done) == 1).await;
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn connections_aborted_at_random_cost_their_neighbours_nothing_and_the_books_balance() {
    let (server, connector) =
        on_memory(Server::new().max_connections(100), obedient(&Gauge::default())).await;
    let over = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for seed in 0..100 {
        let (connector, over) = (connector.clone(), Arc::clone(&over));
        clients.spawn(async move {
            let mut dice = Dice(seed);
            let mut rounds = 0;
            while !over.load(Ordering::Relaxed) {
                let mut client = connector.connect().await.unwrap();
                for _ in 0..dice.roll(8) {
                    ask(&mut client, "echo\n", "echo\n").await;
                }
                match dice.roll(4) {
                    0 => client.abort(),
                    1 => drop(client.write_all(b"abort\n").await),
                    2 => drop(client.write_all(b"fail\n").await),
                    _ => drop(client),
                }
                rounds += 1;
                if rounds % 10 == 0 {
                    tokio::time::sleep(Duration::from_millis(dice.roll(100))).await;
                }
            }
            rounds
        });
    }
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        harness::assert_balanced(&server.counts());
    }
    over.store(true, Ordering::Relaxed);
    let mut rounds = 0;
    while let Some(client) = timeout(LONG, clients.join_next()).await.unwrap() {
        rounds += client.unwrap();
    }
    assert!(rounds > 1000, "{rounds} connections");
    settle().await;
    let handle = server.handle().clone();
    server.end().await;
    assert_eq!(audit(&handle).accepted(), rounds);
}

/// The connections at this port that a process has a descriptor of. The kernel keeps closed ones,
/// without an inode, until their peers have answered.
#[cfg(target_os = "linux")]
fn held_sockets(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let port = format!(":{port:04X}");
    let is_held = |row: &&str| {
        let fields: Vec<&str> = row.split_whitespace().collect();
        fields[1].ends_with(&port) && fields[3] != "0A" && fields[9] != "0"
    };
    table.lines().skip(1).filter(is_held).count()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn two_thousand_short_connections_leave_no_descriptor_and_no_entry_behind() {
    let server = on_tcp(Server::new(), shouter()).await;
    let port = server.tcp_addr(0).port();
    let mut client = server.connect().await;
    ask(&mut client, "a\n", "A\n").await;
    assert_eq!(held_sockets(port), 1);
    drop(client);
    for _ in 1..2000 {
        let mut client = server.connect().await;
        ask(&mut client, "a\n", "A\n").await;
    }
    server.until("all have left", |counts| counts.active() == 0).await;
    until("no socket is left", || held_sockets(port) == 0).await;
    assert_eq!(server.end().await.accepted(), 2000);
}

/// Sends random bytes, closes, and reads to the end.
async fn throw_dice(seed: u64, mut client: impl AsyncReadExt + AsyncWriteExt + Unpin) {
    let mut dice = Dice(seed);
    let size = usize::try_from(dice.roll(8192)).unwrap();
    // One in two sticks to digits and delimiters, which get further.
    let few = b"0123456789:,\r\n";
    let byte = |dice: &mut Dice| match seed % 2 {
        0 => u8::try_from(dice.roll(256)).unwrap(),
        _ => few[usize::try_from(dice.roll(few.len() as u64)).unwrap()],
    };
    let bytes: Vec<u8> = (0..size).map(|_| byte(&mut dice)).collect();
    // Refused half-way is one of the ends this may come to.
    drop(client.write_all(&bytes).await);
    drop(client.shutdown().await);
    drop(timeout(LONG, client.read_to_end(&mut Vec::new())).await.expect("it ends"));
}

#[tokio::test(start_paused = true)]
async fn random_bytes_end_their_own_connection_and_nothing_panics() {
    let echo = reply_fn(|bytes: Bytes| bytes);
    let (raw, raw_client) = on_memory(Server::new(), framed(RawBytes, echo)).await;
    let (lines, lines_client) = on_memory(Server::new(), framed(Lines::crlf().max(64), echo)).await;
    let (strings, strings_client) = on_memory(Server::new(), framed(Netstring::new(), echo)).await;
    let (prefixed, prefixed_client) =
        on_memory(Server::new(), framed(LengthPrefixed::u16(), echo)).await;
    for seed in 0..400 {
        for connector in [&raw_client, &lines_client, &strings_client, &prefixed_client] {
            throw_dice(seed, connector.connect().await.unwrap()).await;
        }
    }
    for server in [raw, lines, strings, prefixed] {
        let counts = server.end().await;
        assert_eq!(counts.accepted(), 400);
        assert_eq!(counts.closed(CloseReason::Panic), 0, "{counts:?}");
    }
}

#[tokio::test]
async fn random_bytes_before_a_connection_are_counted_and_never_served() {
    let server = Server::new().listen("proxy+tcp:127.0.0.1:0?trust=127.0.0.0/8");
    let server = Running::start(server.serve(shouter())).await;
    let address = server.tcp_addr(0);
    for seed in 0..200 {
        throw_dice(seed, TcpStream::connect(address).await.unwrap()).await;
    }
    let preambles = server.handle().preambles();
    assert_eq!(preambles.failed() + preambles.timed_out(), 200, "{preambles:?}");
    assert_eq!(server.end().await.accepted(), 0);
}
