//! Every connection and every frame is logged, once, and safely.

use std::fmt;
use std::future::{Ready, pending};
use std::io;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use ropewalk_middleware::{Addr, CloseReason, Connection, FrameLogLayer, LogLayer, Peer, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::yield_now;
use tower::{Layer, Service, ServiceExt, service_fn};
use tracing::Level;
use tracing::level_filters::LevelFilter;

use crate::collected::Collector;
use crate::common::{connection, connection_on, settle};

#[tokio::test(start_paused = true)]
async fn a_connection_is_logged_when_it_opens_and_when_it_ends_with_what_it_counted() {
    let (log, _guard) = Collector::start(LevelFilter::INFO);
    let mut service = LogLayer::new().layer(service_fn(async |mut connection: Connection| {
        let mut request = [0; 5];
        connection.read_exact(&mut request).await?;
        connection.stats().add_frames_in(1);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        connection.write_all(b"answer").await?;
        connection.stats().add_frames_out(2);
        tracing::info!("inside");
        Ok::<_, io::Error>(())
    }));
    let (ours, mut theirs) = connection_on(7, 64);
    let (id, closing) = (ours.id(), ours.closing());
    theirs.write_all(b"hello").await.unwrap();
    service.ready().await.unwrap().call(ours).await.unwrap();

    let closed = log.closed();
    let numbers = ["bytes_in", "bytes_out", "frames_in", "frames_out", "duration_ms"]
        .map(|n| closed.fields.get(n));
    assert_eq!(numbers, ["5", "6", "1", "2", "1500"]);
    assert_eq!((closed.fields.get("reason"), closed.fields.get("error")), ("done", "-"));
    assert_eq!(closing.reason(), Some(CloseReason::Done));
    for line in [&log.lines("open")[0], &log.lines("inside")[0], &closed] {
        let span = ["id", "peer", "listener"].map(|name| line.span.get(name));
        assert_eq!(span, [id.to_string().as_str(), "memory:", "7"], "{line:?}");
        assert_eq!(line.level, Level::INFO);
    }
    assert_eq!((closed.target.as_str(), log.lines("open").len()), ("ropewalk::connection", 1));
}

#[tokio::test]
async fn the_span_is_entered_at_every_poll_and_left_in_between() {
    let (log, _guard) = Collector::start(LevelFilter::INFO);
    let mut service = LogLayer::new().layer(service_fn(async |_: Connection| {
        yield_now().await;
        tracing::info!("inside");
        Ok::<_, io::Error>(())
    }));
    let task = tokio::spawn(service.ready().await.unwrap().call(connection().0));
    yield_now().await;
    tracing::info!("outside");
    task.await.unwrap().unwrap();
    assert_eq!(log.lines("inside")[0].span.get("peer"), "memory:");
    assert_eq!(log.lines("outside")[0].span.get("peer"), "-");
    // For the opening line, at two polls, at the drop.
    assert_eq!(*log.entered.lock().unwrap(), 4);
}

#[tokio::test]
async fn an_error_is_logged_escaped_and_the_reason_is_the_services() {
    let (log, _guard) = Collector::start(LevelFilter::INFO);
    let mut service = LogLayer::new().layer(service_fn(async |_: Connection| {
        Err::<(), _>(io::Error::other("bad: \x1b[2J\r\n\" reason=done"))
    }));
    service.ready().await.unwrap().call(connection().0).await.unwrap_err();
    let closed = log.closed();
    assert_eq!(closed.fields.get("reason"), "service_error");
    assert_eq!(closed.fields.get("error"), r#""bad: \x1b[2J\r\n\" reason=done""#);
}

#[tokio::test]
async fn a_reason_given_before_stands() {
    for (drained, result, reason) in
        [(false, Ok(()), "codec_error"), (true, Err(io::Error::other("x")), "codec_error")]
    {
        let (log, _guard) = Collector::start(LevelFilter::INFO);
        let mut result = Some(result);
        let mut service = LogLayer::new().layer(service_fn(move |connection: Connection| {
            connection.closing().set_reason(CloseReason::CodecError);
            if drained {
                connection.closing().drain();
            }
            std::future::ready(result.take().unwrap())
        }));
        drop(service.ready().await.unwrap().call(connection().0).await);
        assert_eq!(log.closed().fields.get("reason"), reason);
    }
}

#[tokio::test]
async fn a_drained_connection_says_so() {
    let (log, _guard) = Collector::start(LevelFilter::INFO);
    let mut service =
        LogLayer::new().layer(service_fn(async |_: Connection| Ok::<_, io::Error>(())));
    let (ours, _theirs) = connection();
    ours.closing().drain();
    service.ready().await.unwrap().call(ours).await.unwrap();
    assert_eq!(log.closed().fields.get("reason"), "drained");
}

#[tokio::test]
async fn a_panic_is_logged_once_wherever_it_is_caught() {
    for caught in [true, false] {
        let (log, _guard) = Collector::start(LevelFilter::INFO);
        let mut service = LogLayer::new().layer(service_fn(async |_: Connection| {
            yield_now().await;
            resume_unwind(Box::new("in the service")) as io::Result<()>
        }));
        let call = service.ready().await.unwrap().call(connection().0);
        if caught {
            // This one drops the future when the panic is over.
            let call = AssertUnwindSafe(call).catch_unwind();
            assert!(call.await.is_err());
        } else {
            assert!(tokio::spawn(call).await.unwrap_err().is_panic());
        }
        assert_eq!(log.closed().fields.get("reason"), "panic");
    }
}

#[tokio::test]
async fn a_panic_in_the_call_itself_is_logged_too() {
    let (log, _guard) = Collector::start(LevelFilter::INFO);
    let mut service = LogLayer::new().layer(service_fn(|_: Connection| -> Ready<io::Result<()>> {
        resume_unwind(Box::new("call"))
    }));
    let (ours, _theirs) = connection();
    let closing = ours.closing();
    assert!(std::panic::catch_unwind(AssertUnwindSafe(|| drop(service.call(ours)))).is_err());
    assert_eq!(log.closed().fields.get("reason"), "panic");
    assert_eq!(closing.reason(), Some(CloseReason::Panic));
    assert_ne!(log.closed().span.get("id"), "-");
    assert_eq!((log.lines("open").len(), *log.spans.lock().unwrap()), (1, 1));
}

#[tokio::test]
async fn a_cancelled_connection_is_logged_as_aborted_after_its_service_is_gone() {
    /// The last action of a service, while it is dropped.
    struct Last(ropewalk_middleware::Stats);
    impl Drop for Last {
        fn drop(&mut self) {
            self.0.add_frames_out(9);
        }
    }
    let (log, _guard) = Collector::start(LevelFilter::INFO);
    let mut service = LogLayer::new().layer(service_fn(async |connection: Connection| {
        let _last = Last(connection.stats());
        pending::<io::Result<()>>().await
    }));
    let task = tokio::spawn(service.ready().await.unwrap().call(connection().0));
    settle().await;
    assert!(log.lines("closed").is_empty());
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    let closed = log.closed();
    assert_eq!((closed.fields.get("reason"), closed.fields.get("frames_out")), ("aborted", "9"));
    assert_ne!(closed.span.get("id"), "-");
}

#[tokio::test]
async fn the_call_logs_nothing_as_it_runs_where_connections_are_accepted() {
    let (log, _guard) = Collector::start(LevelFilter::TRACE);
    let mut service =
        LogLayer::new().layer(service_fn(async |_: Connection| Ok::<_, io::Error>(())));
    let call = service.ready().await.unwrap().call(connection().0);
    assert!(log.lines.lock().unwrap().is_empty());
    assert_eq!(*log.spans.lock().unwrap(), 0);
    call.await.unwrap();
    assert_eq!((log.lines("open").len(), *log.spans.lock().unwrap()), (1, 1));
    log.closed();
}

#[tokio::test]
async fn one_that_is_dropped_before_its_first_poll_is_logged_as_well() {
    let (log, _guard) = Collector::start(LevelFilter::INFO);
    let mut service =
        LogLayer::new().layer(service_fn(async |_: Connection| Ok::<_, io::Error>(())));
    drop(service.ready().await.unwrap().call(connection().0));
    let closed = log.closed();
    assert_eq!((closed.fields.get("reason"), log.lines("open").len()), ("aborted", 1));
    assert_ne!(closed.span.get("id"), "-");
}

#[tokio::test]
async fn below_its_level_nothing_is_logged_and_the_reason_is_settled_all_the_same() {
    let (log, _guard) = Collector::start(LevelFilter::INFO);
    let mut service = LogLayer::new()
        .level(Level::DEBUG)
        .layer(service_fn(async |_: Connection| Ok::<_, io::Error>(())));
    let (ours, _theirs) = connection();
    let closing = ours.closing();
    service.ready().await.unwrap().call(ours).await.unwrap();
    assert!(log.lines.lock().unwrap().is_empty());
    assert_eq!(closing.reason(), Some(CloseReason::Done));
}

#[tokio::test]
async fn a_peers_socket_path_can_not_break_the_line() {
    let (log, _guard) = Collector::start(LevelFilter::INFO);
    let mut service =
        LogLayer::new().layer(service_fn(async |_: Connection| Ok::<_, io::Error>(())));
    let path = Addr::Unix(Some(Arc::from(std::path::Path::new("/tmp/\x1b[2J\nreason=panic"))));
    let ours = Connection::new(Stream::from_io(tokio::io::duplex(1).0), Peer::new(path));
    service.ready().await.unwrap().call(ours).await.unwrap();
    assert_eq!(log.closed().span.get("peer"), "unix:/tmp/%1B[2J%0Areason=panic");
}

/// An error that minds being formatted.
#[derive(Debug)]
struct Silent(bool);

impl fmt::Display for Silent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        assert!(!self.0, "formatted for nobody");
        f.write_str("no\n")
    }
}

#[tokio::test]
async fn a_frame_and_its_answer_are_logged_at_the_level_asked_for() {
    let (log, _guard) = Collector::start(LevelFilter::TRACE);
    for level in [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE] {
        log.lines.lock().unwrap().clear();
        let mut service = FrameLogLayer::new()
            .level(level)
            .layer(service_fn(async |frame: &'static [u8]| Ok::<_, io::Error>(frame)));
        service.ready().await.unwrap().call(b"hi\r\n").await.unwrap();
        let (frame, answer) = (&log.lines("frame")[0], &log.lines("answered")[0]);
        assert_eq!((frame.fields.get("len"), frame.fields.get("text")), ("4", r#""hi\r\n""#));
        assert_eq!((answer.fields.get("outcome"), answer.fields.get("error")), ("ok", "-"));
        answer.fields.get("duration_us").parse::<u64>().unwrap();
        assert_eq!(
            (frame.level, answer.level, frame.target.as_str()),
            (level, level, "ropewalk::frame")
        );
        assert_eq!(log.lines.lock().unwrap().len(), 2);
    }
}

#[tokio::test]
async fn the_end_of_a_call_is_logged_once_however_it_comes() {
    let (log, _guard) = Collector::start(LevelFilter::DEBUG);
    let mut service = FrameLogLayer::new().layer(service_fn(async |frame: Vec<u8>| {
        yield_now().await;
        match frame[0] {
            b'e' => Err(Silent(false)),
            b'p' => resume_unwind(Box::new("in the service")),
            b'w' => pending().await,
            _ => Ok(()),
        }
    }));
    for (frame, outcome, error) in [
        ("ok", "ok", "-"),
        ("e", "error", r#""no\n""#),
        ("panic", "panic", "-"),
        ("wait", "dropped", "-"),
    ] {
        log.lines.lock().unwrap().clear();
        let call = service.ready().await.unwrap().call(frame.into());
        let task = tokio::spawn(AssertUnwindSafe(call).catch_unwind());
        settle().await;
        task.abort();
        drop(task.await);
        let lines = log.lines("answered");
        assert_eq!(lines.len(), 1, "{frame}");
        assert_eq!(
            (lines[0].fields.get("outcome"), lines[0].fields.get("error")),
            (outcome, error)
        );
    }
}

#[test]
fn a_service_that_panics_in_the_call_itself_has_its_line() {
    let (log, _guard) = Collector::start(LevelFilter::DEBUG);
    let mut service = FrameLogLayer::new().layer(service_fn(|frame: &'static str| {
        assert_ne!(frame, "panic", "on purpose");
        std::future::ready(Ok::<_, io::Error>(frame))
    }));
    let result = std::panic::catch_unwind(AssertUnwindSafe(|| drop(service.call("panic"))));
    assert!(result.is_err());
    let outcomes: Vec<_> =
        log.lines("answered").iter().map(|line| line.fields.get("outcome").to_owned()).collect();
    assert_eq!(outcomes, ["panic"]);
}

#[tokio::test]
async fn a_disabled_frame_log_formats_and_times_nothing() {
    let (log, _guard) = Collector::start(LevelFilter::INFO);
    let mut service =
        FrameLogLayer::new().layer(service_fn(async |_: &'static str| Err::<(), _>(Silent(true))));
    let call = service.ready().await.unwrap().call("x");
    call.await.unwrap_err();

    let mut service = FrameLogLayer::new()
        .layer(service_fn(|_: &'static str| std::future::ready(Err::<(), _>(Silent(true)))));
    let call = service.ready().await.unwrap().call("x");
    assert!(format!("{call:?}").contains("timing: None"), "{call:?}");
    assert!(log.lines.lock().unwrap().is_empty());
}
