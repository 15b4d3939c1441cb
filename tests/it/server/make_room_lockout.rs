//! Peers that take every place, and those that wait for one.
#![cfg(target_os = "linux")] // elsewhere the loopback has one address

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ropewalk::layer::MakeRoom;
use ropewalk::{CloseReason, ConnectionLimitLayer, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::harness;
use crate::harness::addressed::{is_open, served, waits, with_room};
use crate::harness::{
    Gauge, LONG, Running, ask, assert_balanced, assert_cut, assert_reasons, expect, obedient,
    on_tcp, settle, shouter,
};

const CAP: usize = 100;
const MINUTE: Duration = Duration::from_secs(60);

/// A connection from this address of the loopback.
async fn from(host: u8, server: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, host], 0)))?;
    socket.connect(server).await
}

/// What peers do that want to keep others out. Cut off, they come again.
#[derive(Clone, Copy, Debug)]
enum Hostile {
    Silent,
    Dripping,
    LinePerSecond,
}

impl Hostile {
    async fn hold(self, host: u8, server: SocketAddr) {
        loop {
            if let Ok(mut stream) = from(host, server).await {
                drop(self.stay(&mut stream).await);
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn stay(self, stream: &mut TcpStream) -> std::io::Result<()> {
        loop {
            match self {
                Self::Silent => {}
                Self::Dripping => stream.write_all(b"x").await?,
                Self::LinePerSecond => stream.write_all(b"x\n").await?,
            }
            let mut heard = [0; 64];
            if let Ok(read) = timeout(Duration::from_secs(1), stream.read(&mut heard)).await
                && read? == 0
            {
                return Ok(());
            }
        }
    }
}

/// So many of them from so many addresses, once they have taken all places.
async fn beset(server: &Running, hostile: Hostile, n: usize, hosts: u8) -> JoinSet<()> {
    let addr = server.tcp_addr(0);
    let mut peers = JoinSet::new();
    for i in 0..n {
        let host = 2 + u8::try_from(i % usize::from(hosts)).unwrap();
        peers.spawn(hostile.hold(host, addr));
    }
    server.until("all places are taken", |counts| counts.active() == CAP as u64).await;
    peers
}

/// Clients from another address come one after the other; each is answered within a second.
async fn others_are_served(server: &Running, what: &str) {
    for i in 0..5 {
        let start = Instant::now();
        let mut client = from(77, server.tcp_addr(0)).await.unwrap();
        ask(&mut client, "hello\n", "HELLO\n").await;
        assert!(start.elapsed() < Duration::from_secs(1), "{what}, {i}: {:?}", start.elapsed());
        let counts = server.counts();
        assert!(counts.active() <= CAP as u64, "{counts:?}");
        assert_balanced(&counts);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_hostile_peers_do_one_from_another_address_is_served_within_a_second() {
    for hostile in [Hostile::Silent, Hostile::Dripping, Hostile::LinePerSecond] {
        for hosts in [1, 8] {
            for workers in [false, true] {
                let server = Server::new().max_connections(CAP);
                let server =
                    on_tcp(if workers { server.workers(2) } else { server }, shouter()).await;
                // More than there are places: the others wait, and stand before newcomers.
                let mut peers = beset(&server, hostile, 3 * CAP, hosts).await;
                others_are_served(
                    &server,
                    &format!("{hostile:?} from {hosts}, workers: {workers}"),
                )
                .await;
                peers.shutdown().await;
                server.handle().stop();
                server.over().await;
            }
        }
    }
}

#[tokio::test]
async fn clients_of_a_trusted_proxy_count_by_their_own_address() {
    let server = Server::new().listen("proxy+tcp:127.0.0.1:0?trust=127.0.0.1").max_connections(2);
    let server = Running::start(server.serve(shouter())).await;
    let by_proxy = async |client: &str| {
        let mut stream = server.connect().await;
        stream
            .write_all(format!("PROXY TCP4 {client} 192.0.2.1 1024 25\r\n").as_bytes())
            .await
            .unwrap();
        ask(&mut stream, "a\n", "A\n").await;
        stream
    };
    let crowd = [by_proxy("192.0.2.7").await, by_proxy("192.0.2.7").await];
    let other = by_proxy("192.0.2.8").await;
    assert_eq!(server.counts().closed(CloseReason::MadeRoomShare), 1);
    drop((crowd, other));
    server.until("all are gone", |counts| counts.active() == 0).await;
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_a_limit_that_makes_room_as_well() {
    for hostile in [Hostile::Silent, Hostile::LinePerSecond] {
        let limit =
            ConnectionLimitLayer::new(CAP - 30).refuse_with("full\n").make_room(MakeRoom::new());
        let server = on_tcp(Server::new().layer(limit.clone()), shouter()).await;
        let addr = server.tcp_addr(0);
        let mut peers = JoinSet::new();
        for _ in 0..CAP {
            peers.spawn(hostile.hold(2, addr));
        }
        harness::until("all places are taken", || limit.available() == 0).await;
        for i in 0..5 {
            let start = Instant::now();
            let mut client = from(77, addr).await.unwrap();
            ask(&mut client, "hello\n", "HELLO\n").await;
            assert!(
                start.elapsed() < Duration::from_secs(1),
                "{hostile:?}, {i}: {:?}",
                start.elapsed()
            );
            assert!(limit.active() <= limit.max());
        }
        peers.shutdown().await;
        server.handle().stop();
        server.over().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_cap_is_exact_and_the_books_balance_while_everybody_makes_room_for_everybody() {
    const FEW: usize = 10;
    for workers in [false, true] {
        let gauge = Gauge::default();
        let rules = MakeRoom::new().silent(Duration::from_millis(1)).idle(Duration::from_millis(2));
        let server = Server::new().max_connections(FEW).make_room(rules);
        let server =
            on_tcp(if workers { server.workers(3) } else { server }, obedient(&gauge)).await;
        let (addr, over) = (server.tcp_addr(0), Arc::new(AtomicBool::new(false)));
        let sampler = {
            let (handle, over) = (server.handle().clone(), Arc::clone(&over));
            std::thread::spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    let counts = handle.counts();
                    assert_balanced(&counts);
                    assert!(counts.active() <= FEW as u64, "{counts:?}");
                    std::thread::yield_now();
                }
            })
        };
        let served = Arc::new(AtomicUsize::new(0));
        let mut clients = JoinSet::new();
        for client in 0..40_u8 {
            let served = Arc::clone(&served);
            clients.spawn(async move {
                for turn in 0..20_u64 {
                    let Ok(mut stream) = from(2 + client % 8, addr).await else { continue };
                    if turn % 3 > 0 && stream.write_all(b"hello\n").await.is_ok() {
                        let read =
                            timeout(Duration::from_secs(5), stream.read_exact(&mut [0; 6])).await;
                        served.fetch_add(usize::from(matches!(read, Ok(Ok(_)))), Ordering::SeqCst);
                    }
                    sleep(Duration::from_millis(turn % 4)).await;
                }
            });
        }
        timeout(LONG, clients.join_all()).await.unwrap();
        server.until("all are gone", |counts| counts.active() == 0).await;
        over.store(true, Ordering::SeqCst);
        sampler.join().expect("they balanced");
        assert!(gauge.most() <= FEW && served.load(Ordering::SeqCst) > 0, "{}", gauge.most());
        let counts = server.end().await;
        let made: u64 = [CloseReason::MadeRoomSilent, CloseReason::MadeRoomIdle]
            .iter()
            .map(|r| counts.closed(*r))
            .sum();
        assert!(made > 0, "{counts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_makes_no_room_and_serves_the_waiting_connections() {
    let (server, from) = with_room(1, shouter()).await;
    let client = served(&from, "192.0.2.1").await;
    let mut others = [from.host("192.0.2.2"), from.host("192.0.2.3")];
    for other in &mut others {
        other.write_all(b"new\n").await.unwrap();
    }
    settle().await;
    server.handle().drain(MINUTE);
    for other in &mut others {
        expect(other, "NEW\n").await;
    }
    drop((client, others));
    assert_reasons(&server.over().await, &[(CloseReason::Drained, 3)]);
}

#[tokio::test(start_paused = true)]
async fn when_the_cap_is_lowered_no_connection_ends_until_that_makes_room() {
    let (server, from) = with_room(3, shouter()).await;
    let mut clients = [from.host("192.0.2.1"), from.host("192.0.2.1"), from.host("192.0.2.1")];
    sleep(MINUTE).await;
    server.handle().set_max_connections(2);
    let mut newcomer = from.host("192.0.2.2");
    assert!(waits(&mut newcomer, MINUTE).await);
    assert!(is_open(&mut clients[0]).await);
    let [first, mut second, third] = clients;
    drop(first);
    expect(&mut newcomer, "NEW\n").await;
    assert_cut(&mut second).await;
    drop((second, third, newcomer));
    server.until("all are gone", |counts| counts.active() == 0).await;
    assert_reasons(
        &server.end().await,
        &[(CloseReason::Done, 3), (CloseReason::MadeRoomSilent, 1)],
    );
}

#[tokio::test(start_paused = true)]
async fn a_peer_behind_more_of_a_crowded_address_than_a_full_server_holds_is_found_after_250_ms() {
    let (server, from) = with_room(2, shouter()).await;
    let crowd = [served(&from, "192.0.2.1").await, served(&from, "192.0.2.1").await];
    let mut waiting: Vec<_> = (0..65).map(|_| from.host("192.0.2.1")).collect();
    let mut newcomer = from.host("192.0.2.2");
    let start = tokio::time::Instant::now();
    newcomer.write_all(b"new\n").await.unwrap();
    sleep(Duration::from_millis(249)).await;
    assert_eq!(server.counts().accepted(), 2, "as long as that may end by itself, they wait");
    expect(&mut newcomer, "NEW\n").await;
    assert!(start.elapsed() < Duration::from_millis(260), "{:?}", start.elapsed());
    // The newest were too many: one was in its way, and one in that of others behind it.
    assert_cut(&mut waiting[64]).await;
    assert_cut(&mut waiting[63]).await;
    assert!(is_open(&mut waiting[62]).await);
    assert_eq!(
        (
            server.counts().closed(CloseReason::NoRoom),
            server.counts().closed(CloseReason::MadeRoomShare)
        ),
        (2, 1)
    );
    drop((crowd, waiting, newcomer));
    server.until("all are gone", |counts| counts.active() == 0).await;
    server.end().await;
}
