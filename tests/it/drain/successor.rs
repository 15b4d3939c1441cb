//! A connection whose process has made way for a new one: a peer that has just connected is served.

use std::time::Duration;

use ropewalk::connection::{Closing, Stream};
use ropewalk::{Addr, CloseReason, Connection, Lines, Peer, framed, reply_fn};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tower::Service;

use crate::harness::rest;
use crate::transports::Foreign;

/// As `docs/src/limits.md` has it.
const FIRST_WORDS: Duration = Duration::from_secs(5);

/// An echo of lines on a connection of its own.
fn echo() -> (DuplexStream, Closing, JoinHandle<()>) {
    let (client, ours) = duplex(1024);
    let connection = Connection::new(Stream::boxed(Foreign(ours)), Peer::new(Addr::Memory));
    let closing = connection.closing();
    let served = framed(Lines::lf(), reply_fn(|line: ropewalk::Bytes| line)).call(connection);
    (client, closing, tokio::spawn(async move { served.await.unwrap() }))
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_has_said_nothing_yet_is_waited_for_and_served() {
    let (mut client, closing, served) = echo();
    sleep(Duration::from_secs(1)).await;
    closing.drain_for_successor();
    let told = Instant::now();
    sleep(FIRST_WORDS - Duration::from_millis(1)).await;
    client.write_all(b"late\n").await.unwrap();
    assert_eq!(rest(&mut client).await, "late\n");
    assert!(told.elapsed() < FIRST_WORDS, "with its answer it is over");
    served.await.unwrap();
    assert_eq!(closing.settle(false), CloseReason::Drained);
}

#[tokio::test(start_paused = true)]
async fn the_rest_of_a_frame_is_waited_for() {
    let (mut client, closing, served) = echo();
    client.write_all(b"first\nsec").await.unwrap();
    let mut first = [0; 6];
    client.read_exact(&mut first).await.unwrap();
    closing.drain_for_successor();
    sleep(Duration::from_secs(1)).await;
    client.write_all(b"ond\n").await.unwrap();
    assert_eq!(rest(&mut client).await, "second\n");
    served.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_stays_silent_is_waited_for_no_longer_than_that() {
    let (mut client, closing, served) = echo();
    closing.drain_for_successor();
    let told = Instant::now();
    assert_eq!(rest(&mut client).await, "");
    assert_eq!(told.elapsed(), FIRST_WORDS);
    served.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_idle_peer_that_had_an_answer_is_closed_at_once_and_every_idle_peer_in_a_plain_drain() {
    for succeeded in [true, false] {
        let (mut client, closing, served) = echo();
        if succeeded {
            client.write_all(b"a\n").await.unwrap();
            client.read_exact(&mut [0; 2]).await.unwrap();
            closing.drain_for_successor();
        } else {
            closing.drain();
        }
        let told = Instant::now();
        assert_eq!(rest(&mut client).await, "");
        assert_eq!(told.elapsed(), Duration::ZERO);
        served.await.unwrap();
    }
}
