//! Defaults of layers, as a running server has them.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bytes::Bytes;
use ropewalk::layer::key_rate::KeyRates;
use ropewalk::layer::tap::{TapEnd, TapRules};
use ropewalk::layer::{BanLayer, BanRules, LifetimeLayer, OverloadLayer, TapLayer, ban};
use ropewalk::memory::{Connector, MemoryStream};
use ropewalk::{Lines, Result, Server, Session, framed, per_connection, reply_fn, session};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, split};
use tokio::time::advance;
use tower::ServiceBuilder;

use crate::harness::addressed::addressed;
use crate::harness::{Running, ask, on_memory, settle, shouter};

const KIB: usize = 1024;
const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
/// The size of the tables of keys.
const KEYS: u32 = 65_536;
/// As many are forgotten together.
const EIGHTH: u32 = KEYS / 8;

/// Sends numbers, a line each, and waits until the last one is answered.
async fn count_up(client: MemoryStream, numbers: std::ops::Range<u32>) {
    let (read, mut write) = split(client);
    let last = numbers.end - 1;
    let sent: String = numbers.map(|n| format!("{n}\n")).collect();
    let sending = async move { write.write_all(sent.as_bytes()).await.unwrap() };
    let receiving = async move {
        let mut lines = BufReader::new(read).lines();
        while lines.next_line().await.unwrap().unwrap() != last.to_string() {}
    };
    tokio::join!(sending, receiving);
}

#[tokio::test(start_paused = true)]
async fn the_rates_by_key_remember_65_536_keys_and_for_one_more_forget_an_eighth() {
    let rates = KeyRates::<Bytes>::new(1, 1000 * SECOND);
    let layer = rates.by(|line: &Bytes| line.clone());
    let lines = ServiceBuilder::new().layer(layer).service(reply_fn(|line: Bytes| line));
    let (server, connector) = on_memory(Server::new(), framed(Lines::lf(), lines)).await;
    count_up(connector.connect().await.unwrap(), 0..KEYS).await;
    assert_eq!((rates.keys(), rates.untracked()), (KEYS as usize, 0));
    count_up(connector.connect().await.unwrap(), KEYS..KEYS + 1).await;
    assert_eq!(rates.keys(), (KEYS - EIGHTH + 1) as usize);
    assert_eq!(rates.untracked(), u64::from(EIGHTH));
    server.end().await;
}

/// The service reports an offence of each line.
async fn offended(mut s: Session<Lines>) -> Result {
    while s.next().await?.is_some() {
        ban::offence(&s.info());
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn bans_remember_65_536_peers_and_for_one_more_forget_an_eighth_of_the_suspects() {
    let bans = BanLayer::new(BanRules::new(2, 1_000_000 * SECOND, 1_000_000 * SECOND));
    let (endpoint, from) = addressed();
    let server = Server::new().layer(bans.clone()).listen(endpoint);
    let server = Running::start(server.serve(session(Lines::lf(), offended))).await;
    let address = |n: u32| Ipv4Addr::from(0x0a00_0000 + n);
    let offend = async |n: u32| {
        from.host(&address(n).to_string()).write_all(b"x\n").await.unwrap();
        // As many connections at once as the server accepts.
        if n.is_multiple_of(128) {
            settle().await;
        }
    };
    let gone = |n: u32| server.until("they are gone", move |c| c.closed_in_all() == u64::from(n));
    // The first one is banned: it offends twice, which takes one row.
    from.host(&address(0).to_string()).write_all(b"x\nx\n").await.unwrap();
    for n in 1..KEYS {
        offend(n).await;
    }
    gone(KEYS).await;
    assert_eq!((bans.suspects(), bans.untracked()), (KEYS as usize - 1, 0));
    offend(KEYS).await;
    gone(KEYS + 1).await;
    let forgotten = bans.untracked();
    assert!((1..=u64::from(EIGHTH)).contains(&forgotten), "{forgotten}");
    assert!(forgotten >= u64::from(EIGHTH) - 1, "{forgotten}");
    assert_eq!(bans.suspects() as u64, u64::from(KEYS) - forgotten);
    assert!(bans.is_banned(&IpAddr::V4(address(0))), "no ban is forgotten");
    server.end().await;
}

/// Whether one more connection is served now.
async fn serves(overload: &OverloadLayer, connector: &Connector) -> bool {
    let before = overload.refused();
    let mut newcomer = connector.connect().await.unwrap();
    settle().await;
    let is_refused = overload.refused() > before;
    if !is_refused {
        ask(&mut newcomer, "a\n", "A\n").await;
    }
    drop(newcomer);
    settle().await;
    !is_refused
}

#[tokio::test(start_paused = true)]
async fn from_80_percent_of_the_budget_on_a_server_refuses_until_less_than_70_are_in_use() {
    const BUDGET: usize = 64 * 100 * KIB;
    let overload = OverloadLayer::new();
    let server = Server::new().memory_budget(BUDGET).layer(overload.clone());
    let lines = framed(Lines::lf().unlimited(), reply_fn(|line: Bytes| line.to_ascii_uppercase()));
    let (server, connector) = on_memory(server, lines).await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(connector.connect().await.unwrap());
    }
    settle().await;
    let percent = || server.handle().memory().in_use() as f64 * 100.0 / BUDGET as f64;
    // Each has half a line of a hundredth of the budget.
    let mut before = 0.0;
    for client in &mut clients {
        client.write_all(&[b'x'; 62 * KIB]).await.unwrap();
        settle().await;
        if !serves(&overload, &connector).await {
            break;
        }
        before = percent();
        assert!(before < 80.0, "{before}");
    }
    assert!((77.0..80.0).contains(&before) && percent() >= 80.0, "{before}, {}", percent());
    while let Some(client) = clients.pop() {
        drop(client);
        settle().await;
        if serves(&overload, &connector).await {
            break;
        }
        before = percent();
        assert!(before >= 70.0, "{before}");
    }
    assert!((70.0..73.0).contains(&before) && percent() < 70.0, "{before}, {}", percent());
    drop(clients);
    server.end().await;
}

/// Lets the runtime be late by so much at the next look, which is due every 100 ms.
async fn lag(time: Duration) {
    advance(100 * MS + time).await;
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn from_a_lag_of_500_ms_on_a_server_refuses_until_it_is_below_100_for_a_second() {
    let overload = OverloadLayer::new();
    let (server, connector) = on_memory(Server::new().layer(overload.clone()), shouter()).await;
    let mut open = connector.connect().await.unwrap();
    ask(&mut open, "a\n", "A\n").await;
    lag(490 * MS).await;
    assert!(serves(&overload, &connector).await);
    lag(510 * MS).await;
    assert!(!serves(&overload, &connector).await);
    // Nine calm looks and one that is not, then ten.
    for _ in 0..9 {
        lag(90 * MS).await;
    }
    lag(110 * MS).await;
    for _ in 0..9 {
        lag(90 * MS).await;
        assert!(!serves(&overload, &connector).await);
    }
    lag(90 * MS).await;
    assert!(serves(&overload, &connector).await);
    assert_eq!((overload.stalls(), overload.refused()), (1, 10));
    drop(open);
    server.end().await;
}

#[tokio::test]
async fn a_connection_makes_any_number_of_calls() {
    let server = Server::new().layer(LifetimeLayer::new(Duration::MAX));
    let (server, connector) =
        on_memory(server, framed(Lines::lf(), reply_fn(|line: Bytes| line))).await;
    count_up(connector.connect().await.unwrap(), 0..200_000).await;
    server.end().await;
}

#[tokio::test]
async fn the_file_of_a_tap_takes_16_mib() {
    const FRAME: usize = 16 * KIB;
    let (dir, tap) = (tempfile::tempdir().unwrap(), TapLayer::new());
    let lines = per_connection(Lines::lf().max(FRAME), |_| reply_fn(|_: Bytes| Bytes::new()));
    let (server, connector) = on_memory(Server::new().layer(tap.clone()), lines).await;
    tap.start(TapRules::new(), dir.path().join("tap")).unwrap();
    let mut client = connector.connect().await.unwrap();
    let line = [vec![b'x'; FRAME - 1], b"\n".to_vec()].concat();
    // Records that come faster than they are written are lost, so this may take longer than 16 MiB.
    while tap.status().unwrap().end().is_none() {
        client.write_all(&line).await.unwrap();
        client.read_exact(&mut [0]).await.unwrap();
    }
    let status = tap.status().unwrap();
    let size = std::fs::metadata(status.path()).unwrap().len();
    assert_eq!((status.end(), status.bytes()), (Some(TapEnd::MaxBytes), size));
    let most = 16 * 1024 * KIB as u64;
    // The next record, with what a capture has around it, did not fit.
    assert!((most - 2 * FRAME as u64..=most).contains(&size), "{size}");
    drop(client);
    server.end().await;
}
