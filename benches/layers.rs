//! What the layers cost: nanoseconds a frame of each frame layer and of five together, against no
//! layer and against tower's own of the kind; nanoseconds a connection of each connection layer and
//! of five together; what the counters cost that `metrics::export` reads.
//!
//! `cargo bench --bench layers` measures and ends with the two tables. The figures of one run
//! compare with each other and with no other run's. The quiet case is a call that is answered at
//! its first poll, with the log's level disabled.

mod support;

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::pin::{Pin, pin};
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use criterion::{BatchSize, Criterion};
use metrics_exporter_prometheus::PrometheusBuilder;
use ropewalk::connection::{Stats, Stream};
use ropewalk::layer::accept_rate::Rate;
use ropewalk::layer::key_rate::KeyRates;
use ropewalk::layer::{
    AcceptRateLayer, AccessLayer, AccessRules, BanLayer, BanRules, BandwidthLayer, BoxError,
    CallTimer, KeyLimitLayer, KeyRateLayer, LifetimeLayer, LoginLayer, OverloadLayer, TapLayer,
    key,
};
use ropewalk::metrics::Metrics;
use ropewalk::{
    Bytes, CallDeadlineLayer, CallLatencyLayer, CallLimitLayer, Connection, ConnectionLimitLayer,
    FrameLogLayer, FrameRateLayer, Lines, LogLayer, Peer, PeerLimitLayer, ReadDeadlineLayer,
    Server, StateLayer, framed, memory, reply_fn,
};
use support::{Row, Table};
use tower::limit::{ConcurrencyLimitLayer, RateLimitLayer};
use tower::timeout::TimeoutLayer;
use tower::{Layer, Service, ServiceBuilder};
use tracing::Level;

/// Frames of one iteration.
const FRAMES: usize = 1000;
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// A limit that is never reached: this is what the layers cost while they stop nobody.
const PLENTY: u32 = 1 << 30;

fn main() {
    // Lines at INFO are written, to nowhere; those at DEBUG are disabled, as they usually are.
    tracing_subscriber::fmt().with_max_level(Level::INFO).with_writer(std::io::sink).init();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _in_runtime = runtime.enter();
    // `cargo test --benches` runs each once and prints no table.
    let mut criterion = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let (mut frames, mut connections) = (Table::default(), Table::default());
    ours(&mut criterion, &mut frames);
    stock(&mut criterion, &mut frames);
    waiting(&mut criterion, &mut frames);
    around_connections(&mut criterion, &mut connections);
    criterion.final_summary();
    frames.print_beyond("a frame", "no layer");
    connections.print_beyond("a connection", "no layer");
}

fn leaf() -> impl Service<Bytes, Response = Bytes, Error = Infallible, Future: Send> + Clone {
    reply_fn(|frame: Bytes| frame)
}

/// One call after the other, each ready at once.
fn call<S>(criterion: &mut Criterion, table: &mut Table, who: &str, mut service: S)
where
    S: Service<Bytes>,
{
    let frame =
        Bytes::from_static(b"sixty-four bytes are what a short line of a protocol is made of.");
    let mut cx = Context::from_waker(Waker::noop());
    table.measure(
        criterion,
        Row { kind: "quiet", size: 0, who, frames: FRAMES, bytes: 0 },
        |bencher| {
            bencher.iter(|| {
                for _ in 0..FRAMES {
                    assert!(service.poll_ready(&mut cx).is_ready());
                    let call = pin!(service.call(frame.clone()));
                    assert!(black_box(call.poll(&mut cx)).is_ready());
                }
            });
        },
    );
}

fn ours(criterion: &mut Criterion, table: &mut Table) {
    call(criterion, table, "no layer", leaf());
    call(criterion, table, "CallDeadlineLayer", CallDeadlineLayer::new(MINUTE).layer(leaf()));
    call(criterion, table, "CallLimitLayer", CallLimitLayer::new(100).layer(leaf()));
    call(criterion, table, "FrameRateLayer", FrameRateLayer::new(PLENTY, SECOND).layer(leaf()));
    call(
        criterion,
        table,
        "FrameRateLayer::bytes",
        FrameRateLayer::bytes(PLENTY, SECOND / 1000).layer(leaf()),
    );
    call(criterion, table, "KeyRateLayer", KeyRateLayer::new(PLENTY, SECOND).layer(leaf()));
    call(
        criterion,
        table,
        "KeyRateRefuseLayer",
        KeyRateLayer::new(PLENTY, SECOND).refuse().layer(leaf()),
    );
    let users = KeyRates::new(PLENTY, SECOND).by(|frame: &Bytes| frame.first().copied());
    call(criterion, table, "KeyRateRefuseLayer, the key in each frame", users.layer(leaf()));
    call(criterion, table, "FrameLogLayer, disabled", FrameLogLayer::new().layer(leaf()));
    call(criterion, table, "CallLatencyLayer", CallLatencyLayer::new().layer(leaf()));
    call(
        criterion,
        table,
        "CallLatencyLayer::every_call",
        CallLatencyLayer::new().every_call().layer(leaf()),
    );
    let state = reply_fn(|(_, frame): ((), Bytes)| frame);
    call(criterion, table, "StateLayer", StateLayer::new(()).layer(state));
    let five = ServiceBuilder::new()
        .layer(FrameRateLayer::new(PLENTY, SECOND))
        .layer(CallLimitLayer::new(100))
        .layer(CallDeadlineLayer::new(MINUTE))
        .layer(FrameLogLayer::new())
        .layer(CallLatencyLayer::new())
        .service(leaf());
    call(criterion, table, "rate, limit, deadline, log and latency", five);
    let shared = ServiceBuilder::new()
        .layer(KeyRateLayer::new(PLENTY, SECOND))
        .layer(CallLimitLayer::new(100))
        .layer(CallDeadlineLayer::new(MINUTE))
        .layer(FrameLogLayer::new())
        .layer(CallLatencyLayer::new())
        .service(leaf());
    call(criterion, table, "the same with a shared rate", shared);
    let answers = KeyRateLayer::new(PLENTY, SECOND).answers();
    call(criterion, table, "AnswerRateLayer", answers.layer(leaf()));
    counted(criterion, table);
    exported(criterion, table);
}

/// A frame in and one out, as a leaf counts them on its connection. An exporter of metrics only
/// reads these counts.
fn counted(criterion: &mut Criterion, table: &mut Table) {
    count(criterion, table, "two frames", &connection().stats());
}

fn count(criterion: &mut Criterion, table: &mut Table, who: &str, stats: &Stats) {
    table.measure(
        criterion,
        Row { kind: "counters", size: 0, who, frames: FRAMES, bytes: 0 },
        |bencher| {
            bencher.iter(|| {
                for _ in 0..FRAMES {
                    black_box(stats).add_frames_in(1);
                    black_box(stats).add_frames_out(1);
                }
            });
        },
    );
}

/// The same on a connection of a server, while another thread copies its counts to Prometheus's
/// recorder and renders them a thousand times a second, which is thousands of times as often as
/// Prometheus asks.
fn exported(criterion: &mut Criterion, table: &mut Table) {
    let (told, found) = mpsc::channel();
    let (stop, stopped) = mpsc::channel::<()>();
    let exporter = thread::spawn(move || {
        let recorder = PrometheusBuilder::new().install_recorder().expect("a recorder");
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (endpoint, connector) = memory::endpoint();
        let serve = Server::new().listen(endpoint).serve(framed(Lines::lf(), leaf()));
        let handle = serve.handle();
        let _client = runtime.block_on(async {
            tokio::spawn(serve);
            while handle.addresses().is_empty() {
                tokio::task::yield_now().await;
            }
            let client = connector.connect().await.expect("a connection");
            while handle.connections().is_empty() {
                tokio::task::yield_now().await;
            }
            client
        });
        told.send(handle.connections().remove(0).stats()).expect("it is awaited");
        let mut exported = Metrics::new();
        let every = Duration::from_millis(1);
        while stopped.recv_timeout(every) == Err(mpsc::RecvTimeoutError::Timeout) {
            exported.update(&handle);
            black_box(recorder.render());
        }
    });
    let stats = found.recv().expect("a connection");
    count(criterion, table, "two frames, exported 1000 times a second", &stats);
    drop(stop);
    exporter.join().expect("the exporter");
}

/// A connection that is not a socket.
fn connection() -> Connection {
    let peer = Peer::new(std::net::SocketAddr::from(([192, 0, 2, 1], 8007)));
    Connection::new(Stream::from_io(tokio::io::empty()), peer)
}

fn stock(criterion: &mut Criterion, table: &mut Table) {
    call(criterion, table, "tower timeout", TimeoutLayer::new(MINUTE).layer(leaf()));
    call(
        criterion,
        table,
        "tower concurrency limit",
        ConcurrencyLimitLayer::new(100).layer(leaf()),
    );
    call(
        criterion,
        table,
        "tower rate limit",
        RateLimitLayer::new(PLENTY.into(), SECOND).layer(leaf()),
    );
    let five = ServiceBuilder::new()
        .load_shed()
        .rate_limit(PLENTY.into(), SECOND)
        .concurrency_limit(100)
        .timeout(MINUTE)
        .map_response(|frame: Bytes| frame)
        .service(leaf());
    call(criterion, table, "tower load shed, rate, limit, timeout and map_response", five);
}

/// Answers at the second poll.
#[derive(Clone)]
struct Second;

struct Later(Option<Bytes>, bool);

impl Service<Bytes> for Second {
    type Response = Bytes;
    type Error = BoxError;
    type Future = Later;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, frame: Bytes) -> Later {
        Later(Some(frame), false)
    }
}

impl Future for Later {
    type Output = Result<Bytes, BoxError>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        if std::mem::replace(&mut self.1, true) {
            return self.0.take().map_or(Poll::Pending, |frame| Poll::Ready(Ok(frame)));
        }
        Poll::Pending
    }
}

/// The same for calls that wait, without what the wait itself costs.
fn waiting(criterion: &mut Criterion, table: &mut Table) {
    wait(criterion, table, "no layer", Second);
    wait(criterion, table, "CallDeadlineLayer", CallDeadlineLayer::new(MINUTE).layer(Second));
    wait(criterion, table, "tower timeout", TimeoutLayer::new(MINUTE).layer(Second));
}

fn wait<S: Service<Bytes>>(
    criterion: &mut Criterion,
    table: &mut Table,
    who: &str,
    mut service: S,
) {
    let mut cx = Context::from_waker(Waker::noop());
    // As `framed` does while it polls calls.
    let _lent = CallTimer::default().lend();
    table.measure(
        criterion,
        Row { kind: "waiting", size: 0, who, frames: FRAMES, bytes: 0 },
        |bencher| {
            bencher.iter(|| {
                for _ in 0..FRAMES {
                    assert!(service.poll_ready(&mut cx).is_ready());
                    let mut call = pin!(service.call(Bytes::new()));
                    assert!(black_box(call.as_mut().poll(&mut cx)).is_pending());
                    assert!(black_box(call.poll(&mut cx)).is_ready());
                }
            });
        },
    );
}

/// Ends every connection at once.
#[derive(Clone)]
struct End;

impl Service<Connection> for End {
    type Response = ();
    type Error = Infallible;
    type Future = Ready<Result<(), Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Connection) -> Self::Future {
        ready(Ok(()))
    }
}

fn around_connections(criterion: &mut Criterion, table: &mut Table) {
    open(criterion, table, "no layer", End);
    open(criterion, table, "ConnectionLimitLayer", ConnectionLimitLayer::new(100).layer(End));
    let refuses = ConnectionLimitLayer::new(100).refuse_with("no");
    open(criterion, table, "ConnectionLimitLayer that refuses", refuses.layer(End));
    open(criterion, table, "PeerLimitLayer", PeerLimitLayer::new(100).layer(End));
    let access = AccessRules::deny_all().allow(std::net::IpAddr::from([192, 0, 2, 1]));
    open(criterion, table, "AccessLayer", AccessLayer::new(access).layer(End));
    let rate = AcceptRateLayer::new()
        .per_peer(Rate::new(PLENTY, SECOND))
        .of_all(Rate::new(PLENTY, SECOND));
    open(criterion, table, "AcceptRateLayer", rate.layer(End));
    open(
        criterion,
        table,
        "KeyLimitLayer",
        KeyLimitLayer::by(100, key::network(24, 48)).layer(End),
    );
    open(criterion, table, "BanLayer", BanLayer::new(BanRules::new(3, MINUTE, MINUTE)).layer(End));
    open(criterion, table, "LifetimeLayer", LifetimeLayer::new(MINUTE).max_calls(1000).layer(End));
    open(criterion, table, "LoginLayer", LoginLayer::new().layer(End));
    open(
        criterion,
        table,
        "OverloadLayer, memory only",
        OverloadLayer::new().without_lag().layer(End),
    );
    open(criterion, table, "ReadDeadlineLayer", ReadDeadlineLayer::new().layer(End));
    open(criterion, table, "LogLayer, to nowhere", LogLayer::new().layer(End));
    open(criterion, table, "LogLayer, disabled", LogLayer::new().level(Level::DEBUG).layer(End));
    open(criterion, table, "TapLayer, without a tap", TapLayer::new().layer(End));
    open(
        criterion,
        table,
        "BandwidthLayer",
        BandwidthLayer::new().read(1 << 30).write(1 << 30).layer(End),
    );
    let five = ServiceBuilder::new()
        .layer(LogLayer::new().level(Level::DEBUG))
        .layer(AccessLayer::new(
            AccessRules::deny_all().allow(std::net::IpAddr::from([192, 0, 2, 1])),
        ))
        .layer(
            AcceptRateLayer::new()
                .per_peer(Rate::new(PLENTY, SECOND))
                .of_all(Rate::new(PLENTY, SECOND)),
        )
        .layer(PeerLimitLayer::new(100))
        .layer(LifetimeLayer::new(MINUTE))
        .service(End);
    open(criterion, table, "access, rate, peer limit, lifetime and log", five);
}

/// One connection after the other, made beforehand, ended at once.
fn open<S>(criterion: &mut Criterion, table: &mut Table, who: &str, mut service: S)
where
    S: Service<Connection>,
{
    let mut cx = Context::from_waker(Waker::noop());
    table.measure(
        criterion,
        Row { kind: "open and end", size: 0, who, frames: 1, bytes: 0 },
        |bencher| {
            bencher.iter_batched(
                connection,
                |connection| {
                    assert!(service.poll_ready(&mut cx).is_ready());
                    let call = pin!(service.call(connection));
                    assert!(black_box(call.poll(&mut cx)).is_ready());
                },
                BatchSize::SmallInput,
            );
        },
    );
}
