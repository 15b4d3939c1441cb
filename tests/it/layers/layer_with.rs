//! Layers that are made anew for each connection, at both levels.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use ropewalk::{Lines, Reply, Result, Server, Session, framed, memory, reply_fn, session};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::layer::layer_fn;
use tower::util::MapRequest;

use crate::wired::wired;

/// A layer with its state in an `Arc`, as one that is used around frames must not have it.
fn login<S>(
    logged_in: Arc<AtomicBool>,
) -> impl tower::Layer<S, Service = MapRequest<S, impl FnMut(Bytes) -> Bytes + Clone>> {
    layer_fn(move |inner| {
        let logged_in = Arc::clone(&logged_in);
        MapRequest::new(inner, move |line: Bytes| {
            if line == "login" {
                logged_in.store(true, Ordering::SeqCst);
            }
            if logged_in.load(Ordering::SeqCst) { line } else { Bytes::from_static(b"denied") }
        })
    })
}

#[tokio::test(start_paused = true)]
async fn a_login_on_one_connection_lets_no_other_one_in() {
    let leaf =
        framed(Lines::lf(), reply_fn(|line: Bytes| line)).layer_with(|_| login(Arc::default()));
    let (mut one, mut other) = (wired(leaf.clone()), wired(leaf));
    one.say("login\nget\n").await;
    one.expect("login\nget\n").await;
    other.say("get\n").await;
    other.expect("denied\n").await;
}

#[tokio::test(start_paused = true)]
async fn the_layer_around_frames_knows_its_connection_and_fits_all_settings() {
    let leaf = framed(Lines::lf(), reply_fn(Reply::<Bytes>::one))
        .on_drain(|| Bytes::from_static(b"bye"))
        .layer_with(|connection| {
            let id = connection.id();
            layer_fn(move |inner| {
                MapRequest::new(inner, move |_: Bytes| Bytes::from(id.to_string()))
            })
        })
        .on_error(|_: &ropewalk::Error| Bytes::from_static(b"error"))
        .concurrent(4);
    let mut w = wired(leaf);
    w.say("x\n").await;
    let id = w.closing.info().id();
    w.expect(&format!("{id}\n")).await;
    w.closing.drain();
    assert_eq!(w.rest().await, "bye\n");
}

#[tokio::test(start_paused = true)]
async fn a_server_makes_a_layer_for_each_connection() {
    let (endpoint, connector) = memory::endpoint();
    let made = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&made);
    async fn one_line(mut s: Session<Lines>) -> Result {
        if let Some(line) = s.next().await? {
            s.feed(line)?;
        }
        Ok(())
    }
    let server = Server::new()
        .listen(endpoint)
        .layer_with(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            tower::layer::util::Identity::new()
        })
        .serve(session(Lines::lf(), one_line));
    let handle = server.handle();
    let server = tokio::spawn(server);
    for n in 1..=3 {
        let mut client = connector.connect().await.unwrap();
        client.write_all(b"hi\n").await.unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert_eq!((text.as_str(), made.load(Ordering::SeqCst)), ("hi\n", n));
    }
    handle.stop();
    server.await.unwrap().unwrap();
}
