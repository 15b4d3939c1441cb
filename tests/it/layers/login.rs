//! Peers that have to log in, under a server: the deadline, the limit, and their defaults.

use std::future::pending;
use std::time::Duration;

use ropewalk::layer::{LoginLayer, login};
use ropewalk::{
    Bytes, CloseReason, Lines, Result, Server, Session, per_connection, reply_fn, session,
};
use tokio::time::Instant;

use crate::harness::{ask, assert_cut, assert_reasons, on_memory, on_tcp, rest};

const SECOND: Duration = Duration::from_secs(1);

/// Answers lines, and takes "sesame" for a login.
async fn gate(mut s: Session<Lines>) -> Result {
    while let Some(line) = s.next().await? {
        if line == "sesame" {
            login::complete(&s.info());
        }
        s.feed(line)?;
    }
    if s.info().closing().is_draining() {
        s.feed("goodbye")?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_peer_has_120_s_to_log_in_and_is_told_when_they_are_over() {
    let (server, connector) =
        on_memory(Server::new().layer(LoginLayer::new()), session(Lines::lf(), gate)).await;
    let (mut guest, mut user) =
        (connector.connect().await.unwrap(), connector.connect().await.unwrap());
    let start = Instant::now();
    ask(&mut guest, "hello\n", "hello\n").await;
    ask(&mut user, "sesame\n", "sesame\n").await;
    assert_eq!(rest(&mut guest).await, "goodbye\n");
    assert_eq!(start.elapsed(), 120 * SECOND);
    ask(&mut user, "still here\n", "still here\n").await;
    drop(user);
    assert_reasons(&server.end().await, &[(CloseReason::Done, 1), (CloseReason::LoginTimeout, 1)]);
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_end_then_is_aborted_after_5_s() {
    let stays = session(Lines::lf(), async |_: Session<Lines>| pending().await);
    let (server, connector) = on_memory(Server::new().layer(LoginLayer::new()), stays).await;
    let mut guest = connector.connect().await.unwrap();
    let start = Instant::now();
    assert_cut(&mut guest).await;
    assert_eq!(start.elapsed(), 125 * SECOND);
    assert_reasons(&server.end().await, &[(CloseReason::LoginTimeout, 1)]);
}

#[tokio::test(start_paused = true)]
async fn of_101_peers_that_have_not_logged_in_one_is_refused() {
    let (server, connector) =
        on_memory(Server::new().layer(LoginLayer::new()), session(Lines::lf(), gate)).await;
    let mut guests = Vec::new();
    for _ in 0..100 {
        let mut guest = connector.connect().await.unwrap();
        ask(&mut guest, "hello\n", "hello\n").await;
        guests.push(guest);
    }
    assert_eq!(rest(&mut connector.connect().await.unwrap()).await, "");
    // A login makes room.
    ask(&mut guests[0], "sesame\n", "sesame\n").await;
    ask(&mut connector.connect().await.unwrap(), "hello\n", "hello\n").await;
    drop(guests);
    assert_reasons(&server.end().await, &[(CloseReason::Done, 101), (CloseReason::LoginLimit, 1)]);
}

/// Over a socket, with a service of frames that reports the login.
#[tokio::test]
async fn a_service_of_frames_reports_a_login() {
    let layer = LoginLayer::new().at_most(1).refuse_with("busy\n");
    let service = per_connection(Lines::lf(), |opened: &ropewalk::Opened<Lines>| {
        let info = opened.info();
        reply_fn(move |line: Bytes| {
            login::complete(&info);
            line
        })
    });
    let server = on_tcp(Server::new().layer(layer), service).await;
    let mut guest = server.connect().await;
    // Served, for the listener has accepted it before the next one.
    let mut refused = server.connect().await;
    assert_eq!(rest(&mut refused).await, "busy\n");
    ask(&mut guest, "sesame\n", "sesame\n").await;
    let mut next = server.connect().await;
    ask(&mut next, "sesame\n", "sesame\n").await;
    drop((guest, next));
    server.until("all have gone", |counts| counts.active() == 0).await;
    assert_reasons(&server.end().await, &[(CloseReason::Done, 2), (CloseReason::LoginLimit, 1)]);
}
