//! A server under test, what talks to it, and the end every test comes to.
#![allow(dead_code, unused_imports, reason = "every test file uses a part of it")]

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use ropewalk::memory::{self, Connector};
use ropewalk::server::{Counts, Serve};
use ropewalk::{Addr, CloseReason, Connection, ConnectionService, Error, Handle, Result, Server};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{sleep, timeout};
use tower::{Layer, Service};

pub(crate) use self::seen::{Events, Gauge, Inside};
pub(crate) use self::services::{Hold, answering, gated, obedient, plain, shout, shouter};

pub(crate) mod addressed;
pub(crate) mod falls;
mod seen;
mod services;

/// More than any test takes. It only turns a hang into a failure, and is an hour for those under
/// paused time.
pub(crate) const LONG: Duration = Duration::from_secs(3600);

/// Turns a hang into a failure.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    timeout(LONG, future).await.expect("it takes too long")
}

/// A server in a task of its own.
#[must_use = "a test ends with the end of its server"]
pub(crate) struct Running {
    handle: Handle,
    task: JoinHandle<Result>,
}

impl Running {
    /// Binds, then serves in a task.
    pub(crate) async fn start(serve: Serve) -> Self {
        let serve = serve.bind().await.unwrap();
        Self { handle: serve.handle(), task: tokio::spawn(serve) }
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    pub(crate) fn counts(&self) -> Counts {
        self.handle.counts()
    }

    /// How many connections ended for this reason so far.
    pub(crate) fn closed(&self, reason: CloseReason) -> u64 {
        self.handle.counts().closed(reason)
    }

    /// The address of its `n`th endpoint, which is a TCP one.
    pub(crate) fn tcp_addr(&self, n: usize) -> SocketAddr {
        match self.handle.addresses()[n] {
            Addr::Tcp(addr) => addr,
            ref other => panic!("{other} is no TCP address"),
        }
    }

    /// A connection to its first endpoint, a TCP one.
    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.tcp_addr(0)).await.unwrap()
    }

    /// Whether the server's future has resolved.
    pub(crate) fn is_over(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits until the counters are as wanted.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&Counts) -> bool) {
        until(what, || wanted(&self.counts())).await;
    }

    /// Drains, waits for the server and audits its books.
    pub(crate) async fn end(self) -> Counts {
        self.handle.drain(Duration::from_secs(60));
        self.over().await
    }

    /// Waits for a server that was told to end, and audits its books.
    pub(crate) async fn over(self) -> Counts {
        let (counts, result) = self.result().await;
        result.unwrap();
        counts
    }

    /// Waits for a server that ends by an error, and audits its books.
    pub(crate) async fn fails(self) -> (Counts, Error) {
        let (counts, result) = self.result().await;
        (counts, result.unwrap_err())
    }

    async fn result(self) -> (Counts, Result) {
        let result = timeout(LONG, self.task)
            .await
            .expect("the server ends")
            .expect("the server does not panic");
        timeout(LONG, self.handle.ended()).await.expect("its handle says so");
        assert!(self.handle.is_draining());
        // A session that was aborted in a task of its own ends when that has its turn.
        until("all buffers are gone", || self.handle.memory().in_use() == 0).await;
        (audit(&self.handle), result)
    }

    /// Drops the server's future in the middle of its work.
    pub(crate) async fn cut_off(self) -> Counts {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
        until("the connections are gone", || self.handle.counts().active() == 0).await;
        audit(&self.handle)
    }
}

/// The conservation law: every connection that was accepted has ended, for one reason, and no
/// memory counts as theirs.
pub(crate) fn audit(handle: &Handle) -> Counts {
    let counts = handle.counts();
    assert_balanced(&counts);
    assert_eq!(counts.active(), 0, "nothing is open: {counts:?}");
    assert_eq!(handle.memory().in_use(), 0, "all buffers are gone");
    counts
}

/// The law as it holds at any moment.
pub(crate) fn assert_balanced(counts: &Counts) {
    let closed: u64 = counts.reasons().map(|(_, n)| n).sum();
    assert_eq!(closed, counts.closed_in_all(), "{counts:?}");
    assert_eq!(counts.accepted(), counts.active() + closed, "{counts:?}");
}

/// Asserts that connections ended for these reasons and no others.
#[track_caller]
pub(crate) fn assert_reasons(counts: &Counts, expected: &[(CloseReason, u64)]) {
    assert_eq!(counts.reasons().collect::<Vec<_>>(), expected);
}

/// Serves on one memory endpoint.
pub(crate) async fn on_memory<L, S>(server: Server<L>, service: S) -> (Running, Connector)
where
    L: Layer<S>,
    L::Service: ConnectionService,
{
    let (endpoint, connector) = memory::endpoint();
    (Running::start(server.listen(endpoint).serve(service)).await, connector)
}

/// Serves on a TCP port of the system's choice.
pub(crate) async fn on_tcp<L, S>(server: Server<L>, service: S) -> Running
where
    L: Layer<S>,
    L::Service: ConnectionService,
{
    Running::start(server.listen("tcp:127.0.0.1:0").serve(service)).await
}

/// Serves on memory and ends with everybody having left, without a fault.
pub(crate) async fn run<S, Fut>(service: S, talk: impl FnOnce(Connector) -> Fut)
where
    S: Service<Connection, Response = (), Error = Error, Future: Send + 'static> + Send + 'static,
    Fut: Future<Output = ()>,
{
    let (server, connector) = on_memory(Server::new(), service).await;
    talk(connector).await;
    all_done(server).await;
}

pub(crate) async fn all_done(server: Running) {
    server.until("all have left", |counts| counts.active() == 0).await;
    let counts = server.end().await;
    assert_eq!(counts.closed(CloseReason::Done), counts.accepted(), "{counts:?}");
}

/// Waits until something is so: for what no future tells. The answer is right whenever it comes.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..20_000 {
        for _ in 0..20 {
            if is_so() {
                return;
            }
            yield_now().await;
        }
        // Only so as not to spin.
        sleep(Duration::from_millis(1)).await;
    }
    panic!("never: {what}");
}

/// Lets every task run until it waits for something other than its turn; for tests on one thread.
pub(crate) async fn settle() {
    for _ in 0..100 {
        yield_now().await;
    }
}

/// Sends a request and reads its answer, of a length known beforehand.
#[track_caller]
pub(crate) fn ask<'a, T>(
    io: &'a mut T,
    request: &'a str,
    answer: &'a str,
) -> impl Future<Output = ()> + 'a
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let at = std::panic::Location::caller();
    async move {
        io.write_all(request.as_bytes()).await.unwrap_or_else(|e| panic!("{at}: {e}"));
        hear(io, answer, at).await;
    }
}

/// Reads an answer of a length known beforehand.
#[track_caller]
pub(crate) fn expect<'a, T>(io: &'a mut T, answer: &'a str) -> impl Future<Output = ()> + 'a
where
    T: AsyncRead + Unpin,
{
    hear(io, answer, std::panic::Location::caller())
}

async fn hear<T: AsyncRead + Unpin>(io: &mut T, answer: &str, at: &std::panic::Location<'_>) {
    let mut heard = vec![0; answer.len()];
    timeout(LONG, io.read_exact(&mut heard))
        .await
        .unwrap_or_else(|_| panic!("{at}: no answer"))
        .unwrap_or_else(|error| panic!("{at}: {error} instead of {answer:?}"));
    assert_eq!(String::from_utf8_lossy(&heard), answer, "{at}");
}

/// Reads to the end, which must be a proper one.
pub(crate) async fn rest<T: AsyncRead + Unpin>(io: &mut T) -> String {
    let mut heard = String::new();
    timeout(LONG, io.read_to_string(&mut heard)).await.expect("it ends").expect("it ends properly");
    heard
}

/// Reads to the end, which must be a reset.
pub(crate) async fn assert_reset<T: AsyncRead + Unpin>(io: &mut T) {
    let end = timeout(LONG, io.read_to_end(&mut Vec::new())).await.expect("it ends");
    assert_eq!(end.expect_err("it is reset").kind(), io::ErrorKind::ConnectionReset);
}

/// Reads to the end of the stream or an error, and finds no bytes before it.
pub(crate) async fn assert_cut<T: AsyncRead + Unpin>(io: &mut T) {
    let mut heard = Vec::new();
    drop(timeout(LONG, io.read_to_end(&mut heard)).await.expect("it ends"));
    assert!(heard.is_empty(), "{}", String::from_utf8_lossy(&heard));
}

/// The limit on the descriptors of this process, raised as far as it may be: once, for all tests of
/// the process.
pub(crate) fn descriptors() -> u64 {
    static RAISED: LazyLock<u64> = LazyLock::new(|| {
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
        limit.maximum.unwrap_or(u64::MAX)
    });
    *RAISED
}

/// Closes so that the other side sees a reset.
pub(crate) fn reset(tcp: TcpStream) {
    socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).unwrap();
    drop(tcp);
}

/// A path for a Unix socket in a folder of its own, which is removed with this.
pub(crate) struct TempPath {
    path: PathBuf,
    _folder: TempDir,
}

impl TempPath {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { path: folder.path().join("x.sock"), _folder: folder }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("unix:{}", self.path.display())
    }
}
