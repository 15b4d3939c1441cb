//! Defaults of the log that the README's table names, and one that only the log shows, as a running
//! server has them.

use std::fmt::Debug;
use std::io::{self, Write};
use std::net::{Shutdown, TcpListener as StdTcpListener};
use std::os::fd::IntoRawFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant as StdInstant};

use bytes::Bytes;
use ropewalk::{BackgroundLog, ConnectionLimitLayer, Lines, LogLayer, Server, framed, reply_fn};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use socket2::SockRef;
use tokio::time::{Instant, sleep};
use tracing::field::{Field, Visit};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::{Layer, fmt, registry};

use crate::harness::{Running, ask, on_memory, rest, shouter, until};
use crate::logged::{Log, log_to};

const SECOND: Duration = Duration::from_secs(1);

/// When each line was written, and its message.
#[derive(Clone, Default)]
struct Times(Arc<Mutex<Vec<(Instant, String)>>>);

impl Times {
    fn start() -> (Self, DefaultGuard) {
        let this = Self::default();
        let guard = log_to(registry().with(this.clone()));
        (this, guard)
    }

    fn of(&self, message: &str) -> Vec<Instant> {
        self.0
            .lock()
            .unwrap()
            .iter()
            .filter(|(_, text)| text == message)
            .map(|(at, _)| *at)
            .collect()
    }
}

impl<S: Subscriber> Layer<S> for Times {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = Message::default();
        event.record(&mut message);
        self.0.lock().unwrap().push((Instant::now(), message.0));
    }
}

#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_failed_accept_a_listener_waits_5_ms_then_twice_as_long_up_to_100() {
    let (log, _guard) = Times::start();
    let socket = StdTcpListener::bind("127.0.0.1:0").unwrap();
    // As a parent passes it on.
    let passed = fcntl_dupfd_cloexec(&socket, 100).unwrap();
    fcntl_setfd(&passed, FdFlags::empty()).unwrap();
    let endpoint = format!("fd:{}", passed.into_raw_fd());
    let server = Running::start(Server::new().listen(endpoint).serve(shouter())).await;
    SockRef::from(&socket).shutdown(Shutdown::Both).unwrap();
    let tries = || log.of("a connection could not be accepted");
    // So many lines there are in a second.
    until("it has failed nine times", || tries().len() >= 9).await;
    let waits: Vec<_> = tries().windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
    assert_eq!(waits[..8], [5, 10, 20, 40, 80, 100, 100, 100]);
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn refusals_have_ten_lines_a_second_and_served_connections_all_of_theirs() {
    let (log, _guard) = Times::start();
    let limit = ConnectionLimitLayer::new(1).refuse_with("full");
    let (server, connector) =
        on_memory(Server::new().layer(LogLayer::new()).layer(limit), shouter()).await;
    for _ in 0..200 {
        ask(&mut connector.connect().await.unwrap(), "a\n", "A\n").await;
        server.until("it has left", |counts| counts.active() == 0).await;
    }
    assert_eq!((log.of("open").len(), log.of("closed").len()), (200, 200));
    let mut served = connector.connect().await.unwrap();
    ask(&mut served, "a\n", "A\n").await;
    sleep(SECOND).await;
    let start = Instant::now();
    for _ in 0..200 {
        assert_eq!(rest(&mut connector.connect().await.unwrap()).await, "full");
    }
    server.until("they are gone", |counts| counts.active() == 1).await;
    assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
    // The tenth line is the count.
    assert_eq!((log.of("open").len(), log.of("closed").len()), (201, 200 + 9));
    drop(served);
    server.end().await;
}

/// Writes nothing until it is let.
struct Blocked {
    tell: Sender<()>,
    go: Receiver<()>,
    log: Log,
}

impl Write for Blocked {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _told = self.tell.send(());
        // An error, once the test has let it go on.
        let _let_go = self.go.recv();
        self.log.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_background_log_that_is_not_read_keeps_1_mib_of_lines_and_a_second_at_the_end() {
    const LINE: usize = 16 * 1024;
    let (log, (tell, begun), (go, wait)) = (Log::default(), channel(), channel());
    let background = BackgroundLog::to(Blocked { tell, go: wait, log: log.clone() });
    let subscriber = fmt()
        .with_max_level(Level::ERROR)
        .without_time()
        .with_ansi(false)
        .with_writer(background.writer())
        .finish();
    let _guard = log_to(subscriber);
    let service = framed(
        Lines::lf(),
        reply_fn(|line: Bytes| {
            tracing::error!("{}", "x".repeat(LINE));
            line
        }),
    );
    let (server, connector) = on_memory(Server::new(), service).await;
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "a\n", "a\n").await;
    begun.recv().unwrap();
    // The first line is being written, the others wait.
    for _ in 0..100 {
        ask(&mut client, "a\n", "a\n").await;
    }
    drop(client);
    server.end().await;
    let start = StdInstant::now();
    background.flush();
    assert!((SECOND..2 * SECOND).contains(&start.elapsed()), "{:?}", start.elapsed());
    drop(go);
    background.flush();
    // The last one says how many were lost.
    let text = log.text();
    let (lines, lost) = text.trim_end().rsplit_once('\n').unwrap();
    assert!(lost.contains("37 "), "{lost}");
    let length = lines.find('\n').unwrap() + 1;
    assert_eq!((lines.len() + 1) / length, 1 + 1024 * 1024 / length);
}
