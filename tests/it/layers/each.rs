//! Each layer by itself, over TCP: clients that ask, half-close, fail, panic, leave and are aborted.
//! Limits are one, and the clients come one after the other, so whatever an end left behind would
//! keep the next client out.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ropewalk::layer::key_rate::KeyRates;
use ropewalk::layer::tap::{TapFormat, TapRules};
use ropewalk::layer::{
    AcceptRateLayer, AccessLayer, AccessRules, BanLayer, BanRules, BandwidthLayer, BoxError,
    CatchPanicLayer, KeyLimitLayer, KeyRateLayer, LifetimeLayer, LoginLayer, OverloadLayer,
    PerConnectionLayer, TapLayer, key,
};
use ropewalk::leaf::Body;
use ropewalk::{
    CallDeadlineLayer, CallLatencyLayer, CallLimitLayer, ConnectionInfo, ConnectionLimitLayer,
    Error, FrameLogLayer, FrameRateLayer, Lines, LogLayer, Opened, PeerLimitLayer,
    ReadDeadlineLayer, Reply, Server, per_connection, service_fn,
};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::util::BoxCloneService;
use tower::{Layer, ServiceExt};

use super::stack::{Connections, Frames, Gauge, Wrap, answer, around_connections, around_frames};
use crate::harness::{Running, ask, assert_balanced, on_tcp, rest, until};
use crate::support::TempDir;

const HOUR: Duration = Duration::from_secs(3600);

/// A layer, and what it counts while a connection or a call is there.
struct Case<S> {
    name: &'static str,
    wrap: Wrap<S>,
    gauge: Option<Gauge>,
}

fn case<S>(name: &'static str, wrap: Wrap<S>) -> Case<S> {
    Case { name, wrap, gauge: None }
}

fn counted<S>(
    name: &'static str,
    wrap: Wrap<S>,
    gauge: impl Fn() -> usize + Send + 'static,
) -> Case<S> {
    Case { name, wrap, gauge: Some((name, Box::new(gauge))) }
}

/// Asks, half-closes behind more, and reads all answers.
async fn asks(server: &Running) {
    let mut client = server.connect().await;
    ask(&mut client, "one\n", "one\n").await;
    client.write_all(b"two\nthree\n").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await, "two\nthree\n");
}

/// A call that fails is answered, and the next one too.
async fn fails(server: &Running) {
    let mut client = server.connect().await;
    ask(&mut client, "fail\n", "error\n").await;
    ask(&mut client, "one\n", "one\n").await;
}

/// A call that panics ends no more than the connection.
async fn panics(server: &Running) {
    let mut client = server.connect().await;
    client.write_all(b"boom\n").await.unwrap();
    client.shutdown().await.unwrap();
    // The end may be a reset, and behind a layer that catches panics there is an answer.
    let _ = client.read_to_end(&mut Vec::new()).await;
}

/// A peer that breaks off in the middle of a call, or is aborted there.
async fn breaks_off(server: &Running, is_aborted: bool) {
    let mut client = server.connect().await;
    client.write_all(b"slow\n").await.unwrap();
    server.until("it is there", |counts| counts.active() == 1).await;
    let connection = server.handle().connections().remove(0);
    until("the call is under way", || connection.stats().frames_in() == 1).await;
    if is_aborted {
        connection.abort();
        let _ = client.read_to_end(&mut Vec::new()).await;
    } else {
        // A reset: with a half-close it would still wait for its answer.
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// All of these, twice, on a server with this layer.
async fn each_end(server: Running, name: &str, gauge: Option<Gauge>) {
    for _ in 0..2 {
        for client in 0..5 {
            match client {
                0 => asks(&server).await,
                1 => fails(&server).await,
                2 => panics(&server).await,
                3 => breaks_off(&server, false).await,
                _ => breaks_off(&server, true).await,
            }
            server.until(name, |counts| counts.active() == 0).await;
            if let Some((_, gauge)) = &gauge {
                assert_eq!(gauge(), 0, "{name} after client {client}");
            }
        }
    }
    let counts = server.end().await;
    assert_balanced(&counts);
    assert_eq!((counts.accepted(), counts.refused()), (10, 0), "{name}");
}

fn one(reply: Reply<Bytes>) -> Bytes {
    match reply.body {
        Body::One(frame) => frame,
        _ => Bytes::new(),
    }
}

fn frame_cases() -> Vec<Case<Frames>> {
    let limit = CallLimitLayer::new(1);
    let refuse = CallLimitLayer::new(1).refuse();
    let users = KeyRates::new(1000, HOUR);
    let answers = KeyRateLayer::new(1000, HOUR).answers();
    vec![
        case("CallDeadline", around_frames(CallDeadlineLayer::new(HOUR))),
        counted("CallLimit", around_frames(limit.clone()), move || limit.active()),
        counted("CallRefuse", around_frames(refuse.clone()), move || refuse.active()),
        case("CatchPanic", around_frames(CatchPanicLayer::new())),
        case("FrameRate", around_frames(FrameRateLayer::new(1000, HOUR))),
        case("KeyRate", around_frames(KeyRateLayer::new(1000, HOUR))),
        case("KeyRateRefuse", around_frames(users.by(Bytes::clone))),
        case(
            "AnswerRate",
            Box::new(move |inner: Frames| {
                let inner = inner.map_response(Reply::one);
                BoxCloneService::new(answers.layer(inner).map_response(one))
            }),
        ),
        case("CallLatency", around_frames(CallLatencyLayer::new())),
        case("FrameLog", around_frames(FrameLogLayer::new())),
    ]
}

fn connection_cases(tap: &TapLayer) -> Vec<Case<Connections>> {
    let connections = ConnectionLimitLayer::new(1).refuse_with("full\n");
    let (peers, keys) = (PeerLimitLayer::new(1), KeyLimitLayer::by(1, key::host));
    let (login, bans) = (LoginLayer::new().at_most(1), BanLayer::new(BanRules::new(1, HOUR, HOUR)));
    let (overload, open) = (OverloadLayer::new(), connections.clone());
    let (hosts, users, logins, banned) = (peers.clone(), keys.clone(), login.clone(), bans.clone());
    vec![
        counted("ConnectionLimit", around_connections(connections), move || open.active()),
        counted("PeerLimit", around_connections(peers), move || hosts.peers()),
        counted("KeyLimit", around_connections(keys), move || users.keys() + users.connections()),
        counted("Login", around_connections(login), move || logins.waiting()),
        counted("Ban", around_connections(bans), move || banned.suspects() + banned.banned().len()),
        case("Overload", around_connections(overload)),
        case("Access", around_connections(AccessLayer::new(AccessRules::allow_all()))),
        case("AcceptRate", around_connections(AcceptRateLayer::new())),
        case("Lifetime", around_connections(LifetimeLayer::new(HOUR).max_calls(10))),
        case(
            "Bandwidth",
            around_connections(BandwidthLayer::new().read(1 << 20).write_of_all(1 << 20)),
        ),
        case("ReadDeadline", around_connections(ReadDeadlineLayer::new().min_rate(100))),
        case("Tap", around_connections(tap.clone())),
        case("Log", around_connections(LogLayer::new())),
        case(
            "PerConnection",
            around_connections(PerConnectionLayer::new(|_: &ConnectionInfo| LogLayer::new())),
        ),
    ]
}

async fn serve(frames: Wrap<Frames>, connections: &Wrap<Connections>) -> Running {
    let frames = Arc::new(frames);
    let service = per_connection(Lines::lf(), move |opened: &Opened<Lines>| {
        let info = opened.info();
        let echo = service_fn(move |line: Bytes| answer(info.clone(), line));
        frames(BoxCloneService::new(echo.map_err(BoxError::from)))
    });
    let service = service.on_error(|_: &Error| Bytes::from("error"));
    on_tcp(Server::new(), connections(BoxCloneService::new(service))).await
}

#[tokio::test]
async fn each_layer_around_frames_serves_every_end_of_a_connection_and_keeps_nothing() {
    for Case { name, wrap, gauge } in frame_cases() {
        let as_it_is: Wrap<Connections> = Box::new(|inner| inner);
        each_end(serve(wrap, &as_it_is).await, name, gauge).await;
    }
}

#[tokio::test]
async fn each_layer_around_connections_serves_every_end_of_a_connection_and_keeps_nothing() {
    let (dir, tap) = (TempDir::new(), TapLayer::new());
    tap.start(TapRules::new().format(TapFormat::Hex), dir.join("tap")).unwrap();
    for Case { name, wrap, gauge } in connection_cases(&tap) {
        each_end(serve(Box::new(|inner| inner), &wrap).await, name, gauge).await;
    }
    assert_eq!(tap.status().unwrap().connections(), 10);
}
