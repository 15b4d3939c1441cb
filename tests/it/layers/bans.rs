//! Bans and limits by key, under a server: which offences there are, and what the offender sees.

use std::time::Duration;

use ropewalk::layer::{BanLayer, BanRules, KeyLimitLayer, ban, key};
use ropewalk::{
    Bytes, CloseReason, ConnectionService, Error, Lines, Result, Server, Session, framed,
    per_connection, reply_fn, session,
};
use tokio::io::AsyncWriteExt;
use tokio::time::advance;

use crate::harness::{Running, addressed::addressed, ask, assert_reasons, on_tcp, rest, settle};

const SECOND: Duration = Duration::from_secs(1);

/// Two offences lead to a minute.
fn twice() -> BanLayer {
    BanLayer::new(BanRules::new(2, 10 * SECOND, 60 * SECOND))
}

/// Answers lines of at most ten bytes, and says what is wrong with others.
fn short_lines() -> impl ConnectionService<Error = Error> {
    let echo = framed(Lines::lf().max(10).skip_too_long(), reply_fn(|line: Bytes| line));
    echo.on_error(|_: &Error| Bytes::from("too long")).on_drain(|| Bytes::from("goodbye"))
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_does_not_parse_is_an_offence_and_the_one_that_leads_to_the_ban_is_answered() {
    let (endpoint, from) = addressed();
    let bans = twice();
    let server = Server::new().listen(endpoint).layer(bans.clone().refuse_with("go away\n"));
    let server = Running::start(server.serve(short_lines())).await;
    let mut offender = from.host("192.0.2.1");
    ask(&mut offender, "a line that is too long\n", "too long\n").await;
    ask(&mut offender, "good\n", "good\n").await;
    // Frames that have arrived behind the last offence are not answered.
    ask(&mut offender, "another one of these\nmore\nand more\n", "too long\n").await;
    assert_eq!(rest(&mut offender).await, "goodbye\n");
    assert_eq!(rest(&mut from.host("192.0.2.1")).await, "go away\n");
    let mut good = from.host("192.0.2.2");
    ask(&mut good, "good\n", "good\n").await;
    advance(60 * SECOND).await;
    let mut forgiven = from.host("192.0.2.1");
    ask(&mut forgiven, "good\n", "good\n").await;
    drop((good, forgiven));
    settle().await;
    assert_eq!((bans.bans(), bans.banned()), (1, vec![]));
    let counts = server.end().await;
    assert_reasons(&counts, &[(CloseReason::Done, 2), (CloseReason::Banned, 2)]);
    assert_eq!(counts.refused(), 1, "the other one was served before its offence");
}

#[tokio::test(start_paused = true)]
async fn a_fatal_error_of_the_codec_is_an_offence_and_the_ban_is_the_reason() {
    let (endpoint, from) = addressed();
    let bans = twice();
    let server = Server::new().listen(endpoint).layer(bans.clone());
    let service = framed(ropewalk::Netstring::new(), reply_fn(|frame: Bytes| frame));
    let server = Running::start(server.serve(service)).await;
    for _ in 0..3 {
        let mut offender = from.host("192.0.2.1");
        let _ = offender.write_all(b"garbage").await;
        assert_eq!(rest(&mut offender).await, "");
    }
    assert_eq!(bans.bans(), 1);
    assert_reasons(&server.end().await, &[(CloseReason::CodecError, 1), (CloseReason::Banned, 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_the_end_of_the_stream_cuts_short_is_no_offence() {
    let (endpoint, from) = addressed();
    let bans = twice();
    let server = Server::new().listen(endpoint).layer(bans.clone());
    let service = framed(ropewalk::Netstring::new(), reply_fn(|frame: Bytes| frame));
    let server = Running::start(server.serve(service)).await;
    for _ in 0..3 {
        let mut stopped = from.host("192.0.2.1");
        stopped.write_all(b"5:hel").await.unwrap();
        stopped.shutdown().await.unwrap();
        assert_eq!(rest(&mut stopped).await, "");
    }
    // One that has sent a fault before its end is an offender.
    let mut offender = from.host("192.0.2.1");
    offender.write_all(b"garbage").await.unwrap();
    offender.shutdown().await.unwrap();
    assert_eq!(rest(&mut offender).await, "");
    assert_eq!((bans.bans(), bans.suspects()), (0, 1));
    assert_reasons(&server.end().await, &[(CloseReason::CodecError, 4)]);
}

/// Over a socket: a session reports wrong passwords, and those that were sent ahead are not looked
/// at.
#[tokio::test]
async fn a_session_that_reports_wrong_passwords_looks_at_no_more_than_the_rules_allow() {
    async fn guess(mut s: Session<Lines>) -> Result {
        while let Some(line) = s.next().await? {
            if line != "sesame" {
                ban::offence(&s.info());
            }
            s.feed(if line == "sesame" { "welcome" } else { "denied" })?;
        }
        Ok(())
    }
    let server = on_tcp(Server::new().layer(twice()), session(Lines::lf(), guess)).await;
    let mut guesser = server.connect().await;
    guesser.write_all(b"one\ntwo\nsesame\n").await.unwrap();
    assert_eq!(rest(&mut guesser).await, "denied\ndenied\n");
    let mut again = server.connect().await;
    let _ = again.write_all(b"sesame\n").await;
    assert_eq!(rest(&mut again).await, "");
    server.until("both have gone", |counts| counts.active() == 0).await;
    assert_reasons(&server.end().await, &[(CloseReason::Banned, 2)]);
}

/// Over a socket: a service of frames claims the user's key after the login.
#[tokio::test]
async fn a_user_has_so_many_connections_and_a_name_is_free_again_when_one_ends() {
    let users = KeyLimitLayer::<Bytes>::new(1);
    let claim = users.clone();
    let service = per_connection(Lines::lf(), move |opened: &ropewalk::Opened<Lines>| {
        let info = opened.info();
        let users = KeyLimitLayer::clone(&claim);
        reply_fn(move |name: Bytes| if users.claim(&info, name) { "welcome" } else { "too many" })
    });
    let server =
        on_tcp(Server::new().layer(users.clone()).layer(KeyLimitLayer::by(2, key::host)), service)
            .await;
    let (mut one, mut two) = (server.connect().await, server.connect().await);
    ask(&mut one, "ann\n", "welcome\n").await;
    ask(&mut two, "ann\n", "too many\n").await;
    ask(&mut two, "bob\n", "welcome\n").await;
    assert_eq!(rest(&mut server.connect().await).await, "", "the third connection of this address");
    drop(one);
    server.until("it has gone", |counts| counts.active() == 1).await;
    ask(&mut two, "ann\n", "welcome\n").await;
    assert_eq!((users.active(&Bytes::from("ann")), users.keys()), (1, 1));
    drop(two);
    server.until("both have gone", |counts| counts.active() == 0).await;
    assert_eq!((users.keys(), users.connections()), (0, 0));
    assert_reasons(&server.end().await, &[(CloseReason::Done, 2), (CloseReason::KeyLimit, 1)]);
}
