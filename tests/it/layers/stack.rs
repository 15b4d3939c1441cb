//! All layers together, in twenty fixed orders, under stress: every good client has its answers,
//! and afterwards no layer counts anything.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ropewalk::layer::key_rate::KeyRates;
use ropewalk::layer::{
    AcceptRateLayer, AccessLayer, AccessRules, BanLayer, BanRules, BandwidthLayer, BoxError,
    CatchPanicLayer, KeyLimitLayer, KeyRateLayer, LifetimeLayer, LoginLayer, OverloadLayer,
    PerConnectionLayer, TapLayer, key, login,
};
use ropewalk::{
    CallDeadlineLayer, CallLatencyLayer, CallLimitLayer, CloseReason, Connection, ConnectionInfo,
    ConnectionLimitLayer, Error, FrameLogLayer, FrameRateLayer, Lines, LogLayer, Opened,
    PeerLimitLayer, ReadDeadlineLayer, Result, Server, per_connection, service_fn,
};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tower::util::BoxCloneService;
use tower::{Layer, Service, ServiceExt};

use crate::harness::addressed::{From, addressed};
use crate::harness::{Running, assert_balanced, expect, rest, settle};

const SECOND: Duration = Duration::from_secs(1);
const ORDERS: u64 = 20;
/// Clients of each kind.
const EACH: usize = 15;

pub(super) type Frames = BoxCloneService<Bytes, Bytes, BoxError>;
pub(super) type Connections = BoxCloneService<Connection, (), Error>;
pub(super) type Wrap<S> = Box<dyn Fn(S) -> S + Send + Sync>;
/// What a layer still counts.
pub(super) type Gauge = (&'static str, Box<dyn Fn() -> usize>);

pub(super) fn around_frames<L>(layer: L) -> Wrap<Frames>
where
    L: Layer<Frames> + Send + Sync + 'static,
    L::Service: Service<Bytes, Response = Bytes, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + 'static,
{
    Box::new(move |inner| BoxCloneService::new(layer.layer(inner).map_err(Into::into)))
}

pub(super) fn around_connections<L>(layer: L) -> Wrap<Connections>
where
    L: Layer<Connections> + Send + Sync + 'static,
    L::Service:
        Service<Connection, Response = (), Error = Error, Future: Send> + Clone + Send + 'static,
{
    Box::new(move |inner| BoxCloneService::new(layer.layer(inner)))
}

/// The layers around frames. Only frames that begin with `f` are refused: all that one user sends
/// above two a second.
fn frame_layers() -> (Vec<Wrap<Frames>>, Vec<Gauge>) {
    let users = KeyRates::new(2, SECOND);
    let (limit, refuse) = (CallLimitLayer::new(16), CallLimitLayer::new(10_000).refuse());
    let layers = vec![
        around_frames(CallDeadlineLayer::new(SECOND)),
        around_frames(limit.clone()),
        around_frames(refuse.clone()),
        around_frames(CatchPanicLayer::new()),
        around_frames(FrameRateLayer::new(100, SECOND)),
        around_frames(KeyRateLayer::new(1000, SECOND)),
        around_frames(users.by(|frame: &Bytes| {
            if frame.starts_with(b"f") { frame.slice(..2) } else { frame.clone() }
        })),
        around_frames(CallLatencyLayer::new()),
        around_frames(FrameLogLayer::new()),
    ];
    let gauges: Vec<Gauge> = vec![
        ("calls", Box::new(move || limit.active())),
        ("other calls", Box::new(move || refuse.active())),
    ];
    (layers, gauges)
}

fn connection_layers() -> (Vec<Wrap<Connections>>, Vec<Gauge>) {
    let connections = ConnectionLimitLayer::new(1000).refuse_with("full\n");
    let (peers, keys) = (PeerLimitLayer::new(200), KeyLimitLayer::by(500, key::network(24, 48)));
    let (logins, overload) = (LoginLayer::new().at_most(1000), OverloadLayer::new());
    let bans = BanLayer::new(BanRules::new(10_000, SECOND, SECOND));
    let layers = vec![
        around_connections(connections.clone()),
        around_connections(peers.clone()),
        around_connections(keys.clone()),
        around_connections(logins.clone()),
        around_connections(overload.clone()),
        around_connections(bans.clone()),
        around_connections(AccessLayer::new(AccessRules::allow_all())),
        around_connections(AcceptRateLayer::new()),
        around_connections(LifetimeLayer::new(3600 * SECOND).max_calls(1000)),
        around_connections(BandwidthLayer::new().read(1 << 20).write_of_all(1 << 24)),
        around_connections(ReadDeadlineLayer::new().min_rate(100)),
        around_connections(TapLayer::new()),
        around_connections(LogLayer::new().details()),
        around_connections(PerConnectionLayer::new(|_: &ConnectionInfo| {
            LogLayer::new().open_telemetry()
        })),
    ];
    let gauges: Vec<Gauge> = vec![
        ("connections", Box::new(move || connections.active())),
        ("peers", Box::new(move || peers.peers())),
        ("connections with a key", Box::new(move || keys.connections())),
        ("logins", Box::new(move || logins.waiting())),
        ("overload", Box::new(move || usize::from(overload.is_overloaded()))),
        ("bans", Box::new(move || bans.banned().len())),
    ];
    (layers, gauges)
}

/// Puts the layers around a service, in the same order for the same number.
fn in_order<S>(layers: &[Wrap<S>], inner: S, order: u64) -> S {
    let mut layers: Vec<_> = layers.iter().collect();
    // A linear congruential generator, with Knuth's constants.
    let mut state = order;
    for last in (1..layers.len()).rev() {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let chosen = usize::try_from(state >> 33).unwrap() % (last + 1);
        layers.swap(last, chosen);
    }
    layers.iter().fold(inner, |inner, wrap| wrap(inner))
}

/// Echoes lines, but for those whose last word says otherwise.
pub(super) async fn answer(info: ConnectionInfo, line: Bytes) -> Result<Bytes> {
    login::complete(&info);
    match line.rsplit(|b| *b == b' ').next() {
        Some(b"slow") => sleep(3600 * SECOND).await,
        Some(b"boom") => panic!("as told"),
        Some(b"fail") => return Err(Error::other("as told")),
        _ => tokio::task::yield_now().await,
    }
    Ok(line)
}

/// A client that pipelines, is slow, panics and fails calls, and reads all its answers.
async fn good(from: From, n: usize) {
    let mut client = from.host(&format!("192.0.2.{}", n % 7));
    let (mut sent, mut expected) = (String::new(), String::new());
    for word in ["one", "two", "boom", "three", "fail", "slow", "four"] {
        let line = format!("good {n} {word}\n");
        expected += if ["boom", "fail", "slow"].contains(&word) { "error\n" } else { &line };
        sent += &line;
    }
    client.write_all(sent.as_bytes()).await.unwrap();
    expect(&mut client, &expected).await;
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await, "");
}

/// A client that sends everything, closes its half, and then reads.
async fn half_closing(from: From, n: usize) {
    let mut client = from.host(&format!("198.51.100.{}", n % 5));
    let sent: String = (0..20).map(|line| format!("half {n} {line}\n")).collect();
    client.write_all(sent.as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await, sent);
}

/// A user that sends more than is allowed, and is told so.
async fn flooding(from: From, n: usize) {
    let mut client = from.host("203.0.113.1");
    let line = format!("f{}\n", char::from(b'a' + u8::try_from(n % 20).unwrap()));
    client.write_all(line.repeat(30).as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    let answers = rest(&mut client).await;
    assert_eq!(answers.lines().count(), 30);
    assert!(
        answers.lines().all(|answer| answer == line.trim_end() || answer == "error"),
        "{answers}"
    );
    assert!(answers.contains("error"), "30 at once are above the rate");
}

/// One that leaves in the middle: of a line, of a call, of an answer.
async fn leaving(from: From, n: usize) {
    let mut client = from.host("2001:db8::1");
    let sent = [&b"half a li"[..], b"slow\n", b"boom\nslow\nx\n"][n % 3];
    client.write_all(sent).await.unwrap();
    sleep(Duration::from_millis(10 * n as u64)).await;
}

/// One that sends what is not a frame, and goes on.
async fn garbling(from: From, n: usize) {
    let mut client = from.host("2001:db8:1::1");
    client.write_all(&[0xFF; 200]).await.unwrap();
    client.write_all(format!("\ngarbled {n}\n").as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await, format!("error\ngarbled {n}\n"));
}

/// Runs the server with its layers in this order.
async fn stress(order: u64) {
    let ((frames, mut gauges), (connections, more)) = (frame_layers(), connection_layers());
    gauges.extend(more);
    let frames = Arc::new(frames);
    let service =
        per_connection(Lines::lf().max(100).skip_too_long(), move |opened: &Opened<Lines>| {
            let info = opened.info();
            let echo = service_fn(move |line: Bytes| answer(info.clone(), line));
            in_order(&frames, BoxCloneService::new(echo.map_err(BoxError::from)), order)
        });
    let service = BoxCloneService::new(service.on_error(|_: &Error| Bytes::from("error")));
    let service = in_order(&connections, service, order);
    let (endpoint, from) = addressed();
    let server = Running::start(Server::new().listen(endpoint).serve(service)).await;
    let mut clients = JoinSet::new();
    for n in 0..EACH {
        clients.spawn(good(from.clone(), n));
        clients.spawn(half_closing(from.clone(), n));
        clients.spawn(flooding(from.clone(), n));
        clients.spawn(leaving(from.clone(), n));
        clients.spawn(garbling(from.clone(), n));
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap_or_else(|error| panic!("in order {order}: {error}"));
    }
    settle().await;
    sleep(5 * SECOND).await;
    let counts = server.end().await;
    assert_balanced(&counts);
    assert_eq!(counts.accepted(), 5 * EACH as u64, "in order {order}");
    assert_eq!(
        (counts.closed(CloseReason::Panic), counts.refused()),
        (0, 0),
        "in order {order}: {counts:?}"
    );
    for (what, gauge) in gauges {
        assert_eq!(gauge(), 0, "{what} in order {order}");
    }
}

#[tokio::test(start_paused = true)]
async fn in_each_of_twenty_orders_every_good_client_has_its_answers_and_nothing_is_left_behind() {
    for order in 0..ORDERS {
        stress(order).await;
    }
}
