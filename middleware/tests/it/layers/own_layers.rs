//! What layers of others stand on: a layer for each connection, a refusal like ours, and a log of
//! typed frames.

use std::convert::Infallible;
use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ropewalk_middleware::{
    CloseReason, Connection, ConnectionInfo, ConnectionLimitLayer, FrameLogLayer,
    PerConnectionLayer, Refuse,
};
use tokio::io::AsyncReadExt;
use tower::layer::layer_fn;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::collected::log_to;
use crate::common::{Hold, connection};

#[tokio::test]
async fn each_connection_gets_a_layer_of_its_own() {
    let made = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&made);
    let layer = PerConnectionLayer::new(move |connection: &ConnectionInfo| {
        let (id, n) = (connection.id(), counted.fetch_add(1, Ordering::SeqCst));
        layer_fn(move |inner| {
            let _ = n;
            tower::util::MapRequest::new(inner, move |connection: Connection| {
                assert_eq!(connection.id(), id, "the layer of another connection");
                connection
            })
        })
    });
    let mut service = layer.layer(service_fn(async |_: Connection| Ok::<_, Infallible>(())));
    for n in 1..=3 {
        service.ready().await.unwrap().call(connection().0).await.unwrap();
        assert_eq!(made.load(Ordering::SeqCst), n);
    }
}

/// The service behind it is cloned. The permit of a limit must stay with the value that was made
/// ready.
#[tokio::test(start_paused = true)]
async fn a_slot_reserved_for_a_connection_is_used_by_it() {
    let limit = ConnectionLimitLayer::new(1);
    let hold = Hold::default();
    let layer = PerConnectionLayer::new(|_: &ConnectionInfo| tower::layer::util::Identity::new());
    let mut service = layer.layer(limit.layer(hold.clone()));
    let (first, peer) = connection();
    let call = tokio::spawn(service.ready().await.unwrap().call(first));
    tokio::task::yield_now().await;
    assert_eq!(hold.now(), 1);
    let ready = tokio::time::timeout(std::time::Duration::from_secs(1), service.ready()).await;
    assert!(ready.is_err(), "the slot is taken");
    drop(peer);
    call.await.unwrap().unwrap();
    assert!(service.ready().await.is_ok(), "the slot is given back");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_says_its_text_and_lingers_as_in_our_own_layers() {
    let refuse = Refuse::with("not today\r\n");
    let (ours, mut peer) = connection();
    let closing = ours.closing();
    let refused =
        tokio::spawn(refuse.refuse::<std::future::Ready<Result<(), Infallible>>, _>(ours));
    let mut text = String::new();
    peer.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "not today\r\n");
    assert_eq!(closing.reason(), Some(CloseReason::Refused));
    tokio::task::yield_now().await;
    assert!(!refused.is_finished(), "it lingers, so that a reset can't destroy the text");
    drop(peer);
    refused.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn refusals_of_slow_peers_are_bounded() {
    let refuse = Refuse::with("not today\r\n");
    let mut under_way = Vec::new();
    for _ in 0..ropewalk_middleware::limit::MAX_REFUSALS {
        let (ours, peer) = connection();
        under_way.push((
            refuse.clone().refuse::<std::future::Ready<Result<(), Infallible>>, _>(ours),
            peer,
        ));
    }
    let (ours, _peer) = connection();
    let closing = ours.closing();
    refuse.refuse::<std::future::Ready<Result<(), Infallible>>, _>(ours).await.unwrap();
    assert_eq!(closing.reason(), Some(CloseReason::RefusedAtOnce));
}

#[tokio::test]
async fn a_connection_that_is_not_refused_is_served() {
    let refuse = Refuse::with("");
    refuse.serve(async { Ok::<_, Infallible>(()) }).await.unwrap();
    let failed = refuse.serve(async { Err::<(), _>("it failed") }).await;
    assert_eq!(failed, Err("it failed"));
}

/// A log in memory.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Command {
    Get(&'static str),
}

impl fmt::Debug for Command {
    /// As it comes: a derived one would escape it already.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Get(key) = self;
        write!(f, "Get({key})")
    }
}

#[tokio::test]
async fn typed_frames_are_logged_by_their_debug_escaped() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(move || writer.clone())
        .finish();
    let service = FrameLogLayer::debug().layer(service_fn(async |command: Command| {
        let Command::Get(key) = command;
        Ok::<_, Infallible>(key)
    }));
    let _guard = log_to(subscriber);
    assert_eq!(service.oneshot(Command::Get("a\n\x1b[2J")).await, Ok("a\n\x1b[2J"));
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("Get("), "{text}");
    assert!(text.contains("outcome=\"ok\""), "{text}");
    assert!(!text.contains("\x1b[2J"), "{text}");
    assert_eq!(text.lines().count(), 2, "{text}");
}
