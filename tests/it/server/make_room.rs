//! Which connections make room when the server is full: silent peers, then idle ones, then those of
//! a crowded address.

use std::time::Duration;

use bytes::Bytes;
use ropewalk::CloseReason::{Done, MadeRoomIdle, MadeRoomShare, MadeRoomSilent};
use ropewalk::layer::MakeRoom;
use ropewalk::{Lines, Result, Server, Session, framed, service_fn, session};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, sleep, timeout};

use crate::harness::addressed::{From, is_open, limited, served, waits, with_room};
use crate::harness::{
    Hold, Running, ask, assert_balanced, assert_cut, assert_reasons, expect, settle, shouter,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// How long a client waits for its first answer.
async fn wait(client: &mut DuplexStream) -> Duration {
    let start = Instant::now();
    ask(client, "new\n", "NEW\n").await;
    start.elapsed()
}

/// Lets everybody go and asserts for which reasons they went.
async fn ended(server: Running, expected: &[(ropewalk::CloseReason, u64)]) {
    server.until("all are gone", |counts| counts.active() == 0).await;
    assert_reasons(&server.end().await, expected);
}

#[tokio::test(start_paused = true)]
async fn while_there_is_room_a_first_line_after_five_minutes_is_answered_and_a_listener_of_an_hour_stays()
 {
    let (server, from) = with_room(3, shouter()).await;
    let mut listener = served(&from, "192.0.2.1").await;
    let mut typist = from.host("192.0.2.1");
    sleep(5 * MINUTE).await;
    ask(&mut typist, "at last\n", "AT LAST\n").await;
    sleep(60 * MINUTE).await;
    // The last place is taken, and nobody waits.
    let mut third = served(&from, "192.0.2.2").await;
    sleep(60 * MINUTE).await;
    for client in [&mut listener, &mut typist, &mut third] {
        ask(client, "still here\n", "STILL HERE\n").await;
    }
    drop((listener, typist, third));
    ended(server, &[(Done, 3)]).await;
}

#[tokio::test(start_paused = true)]
async fn the_oldest_without_a_first_frame_goes_after_five_seconds() {
    let (server, from) = with_room(3, shouter()).await;
    let mut spoken = served(&from, "192.0.2.1").await;
    let mut first = from.host("192.0.2.2");
    sleep(SECOND).await;
    let mut second = from.host("192.0.2.3");
    // A part of a frame does not count as a frame.
    first.write_all(b"half a li").await.unwrap();
    sleep(SECOND).await;
    let mut newcomer = from.host("192.0.2.4");
    assert_eq!(wait(&mut newcomer).await, 3 * SECOND);
    assert_cut(&mut first).await;
    assert!(is_open(&mut second).await && is_open(&mut spoken).await);
    assert_eq!(server.counts().active(), 3);
    drop((spoken, second, newcomer));
    ended(server, &[(Done, 3), (MadeRoomSilent, 1)]).await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_one_goes_at_once_if_its_address_has_more_than_its_share() {
    let (server, from) = with_room(4, shouter()).await;
    let mut spoken = served(&from, "192.0.2.1").await;
    let mut others = Vec::new();
    for host in ["192.0.2.2", "192.0.2.1", "192.0.2.1"] {
        others.push(from.host(host));
        settle().await;
    }
    let mut newcomer = from.host("192.0.2.3");
    assert_eq!(wait(&mut newcomer).await, Duration::ZERO);
    assert_cut(&mut others[1]).await;
    assert!(
        is_open(&mut others[0]).await
            && is_open(&mut others[2]).await
            && is_open(&mut spoken).await
    );
    // With four addresses each may have one; there are three, and one has two.
    let mut fourth = from.host("192.0.2.4");
    assert_eq!(wait(&mut fourth).await, Duration::ZERO);
    assert_cut(&mut others[2]).await;
    drop((spoken, others, newcomer, fourth));
    ended(server, &[(Done, 4), (MadeRoomSilent, 2)]).await;
}

#[tokio::test(start_paused = true)]
async fn the_one_idle_for_longest_goes_once_no_byte_has_moved_for_a_minute() {
    let (server, from) = with_room(3, shouter()).await;
    let mut clients = Vec::new();
    for host in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
        clients.push(served(&from, host).await);
        sleep(SECOND).await;
    }
    sleep(10 * SECOND).await;
    ask(&mut clients[0], "b\n", "B\n").await;
    let mut newcomer = from.host("192.0.2.4");
    assert_eq!(wait(&mut newcomer).await, 60 * SECOND - 12 * SECOND);
    assert_cut(&mut clients[1]).await;
    drop((clients, newcomer));
    ended(server, &[(Done, 3), (MadeRoomIdle, 1)]).await;
}

#[tokio::test(start_paused = true)]
async fn several_that_wait_have_as_many_make_room_in_the_order_in_which_they_fell_idle() {
    let (server, from) = with_room(4, shouter()).await;
    let mut clients = Vec::new();
    for host in ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"] {
        clients.push(served(&from, host).await);
        sleep(SECOND).await;
    }
    // Another order than that in which they came.
    for i in [2, 0, 3, 1] {
        ask(&mut clients[i], "b\n", "B\n").await;
        sleep(SECOND).await;
    }
    sleep(5 * MINUTE).await;
    let mut newcomers = [from.host("192.0.2.5"), from.host("192.0.2.6"), from.host("192.0.2.7")];
    for newcomer in &mut newcomers {
        assert_eq!(wait(newcomer).await, Duration::ZERO);
        assert!(server.counts().active() <= 4);
        assert_balanced(&server.counts());
    }
    for i in [2, 0, 3] {
        assert_cut(&mut clients[i]).await;
    }
    assert!(is_open(&mut clients[1]).await);
    drop((clients, newcomers));
    ended(server, &[(Done, 4), (MadeRoomIdle, 3)]).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_waits_for_an_answer_or_has_yet_to_take_it_is_not_idle() {
    let slow = service_fn(async |line: Bytes| {
        if line == "slow" {
            sleep(10 * MINUTE).await;
        }
        Ok(if line == "long" { Bytes::from(vec![b'x'; 200_000]) } else { line })
    });
    let leaf = framed(Lines::lf().unlimited(), slow).write_stall(60 * MINUTE);
    let (server, from) = with_room(3, leaf).await;
    let (mut slow, mut long) = (from.host("192.0.2.1"), from.host("192.0.2.2"));
    slow.write_all(b"slow\n").await.unwrap();
    long.write_all(b"long\n").await.unwrap();
    sleep(MINUTE).await;
    let mut idle = from.host("192.0.2.3");
    ask(&mut idle, "a\n", "a\n").await;
    let start = Instant::now();
    let mut newcomer = from.host("192.0.2.4");
    ask(&mut newcomer, "new\n", "new\n").await;
    assert_eq!(start.elapsed(), MINUTE, "it was idle for the shortest time, and it alone");
    assert_cut(&mut idle).await;
    expect(&mut slow, "slow\n").await;
    drop((slow, long, newcomer));
    server.until("all are gone", |counts| counts.active() == 0).await;
    assert_eq!(server.end().await.closed(MadeRoomIdle), 1);
}

/// Each of these says something each second, as long as it is served.
fn chatter(from: &From, host: &str, n: usize) -> Vec<tokio::task::JoinHandle<()>> {
    let talk = |mut client: DuplexStream| async move {
        let mut heard = [0; 2];
        while client.write_all(b"x\n").await.is_ok() && client.read_exact(&mut heard).await.is_ok()
        {
            sleep(SECOND).await;
        }
    };
    (0..n).map(|_| tokio::spawn(talk(from.host(host)))).collect()
}

#[tokio::test(start_paused = true)]
async fn for_a_peer_below_its_share_one_goes_of_the_address_furthest_above_its_own() {
    let (server, from) = with_room(10, shouter()).await;
    let mut eager = chatter(&from, "192.0.2.1", 3);
    eager.extend(chatter(&from, "192.0.2.2", 5));
    eager.extend(chatter(&from, "192.0.2.3", 2));
    sleep(10 * MINUTE).await;
    // With four addresses each has two.
    let mut new = [from.host("192.0.2.4"), from.host("192.0.2.4"), from.host("192.0.2.4")];
    for client in &mut new[..2] {
        assert!(wait(client).await < SECOND);
    }
    settle().await;
    let finished = |range: std::ops::Range<usize>| {
        eager[range].iter().filter(|task| task.is_finished()).count()
    };
    // Theirs find out when they write next.
    sleep(2 * SECOND).await;
    assert_eq!((finished(0..3), finished(3..8), finished(8..10)), (0, 2, 0));
    assert!(waits(&mut new[2], 5 * SECOND).await, "it has its share");
    assert_eq!(server.counts().closed(MadeRoomShare), 2);
    drop(new);
    eager.iter().for_each(|task| task.abort());
    server.until("all are gone", |counts| counts.active() == 0).await;
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn of_a_crowded_address_the_one_idle_for_longest_goes() {
    let (server, from) = with_room(3, shouter()).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(served(&from, "192.0.2.1").await);
        sleep(SECOND).await;
    }
    ask(&mut clients[0], "b\n", "B\n").await;
    let mut newcomer = from.host("192.0.2.2");
    assert_eq!(wait(&mut newcomer).await, Duration::ZERO);
    assert_cut(&mut clients[1]).await;
    assert!(is_open(&mut clients[0]).await && is_open(&mut clients[2]).await);
    drop((clients, newcomer));
    ended(server, &[(Done, 3), (MadeRoomShare, 1)]).await;
}

#[tokio::test(start_paused = true)]
async fn peers_with_a_connection_each_do_not_disconnect_each_other() {
    let (server, from) = with_room(3, shouter()).await;
    let clients = [
        served(&from, "192.0.2.1").await,
        served(&from, "192.0.2.2").await,
        served(&from, "192.0.2.3").await,
    ];
    let mut newcomer = from.host("192.0.2.4");
    assert!(waits(&mut newcomer, 59 * SECOND).await);
    drop(clients);
    expect(&mut newcomer, "NEW\n").await;
    drop(newcomer);
    ended(server, &[(Done, 4)]).await;
}

#[tokio::test(start_paused = true)]
async fn an_ipv6_host_counts_by_its_first_64_bits() {
    let (server, from) = with_room(2, shouter()).await;
    let mut clients =
        [served(&from, "2001:db8:0:1::1").await, served(&from, "2001:db8:0:1:ffff::2").await];
    let mut same = from.host("2001:db8:0:1::3");
    assert!(waits(&mut same, 5 * SECOND).await);
    let mut other = from.host("2001:db8:0:2::1");
    assert!(wait(&mut other).await < SECOND);
    assert_cut(&mut clients[0]).await;
    drop((clients, same, other));
    server.until("all are gone", |counts| counts.active() == 0).await;
    assert_eq!(server.end().await.closed(MadeRoomShare), 1);
}

#[tokio::test(start_paused = true)]
async fn peers_without_an_address_have_no_share() {
    let (server, from) = with_room(3, shouter()).await;
    let mut clients = [from.host("unix"), from.host("unix"), served(&from, "unix").await];
    let mut tcp = from.host("192.0.2.1");
    assert_eq!(wait(&mut tcp).await, 5 * SECOND, "silent ones go in their time, and not before");
    assert_cut(&mut clients[0]).await;
    let mut unix = from.host("unix");
    assert_eq!(wait(&mut unix).await, Duration::ZERO);
    assert_cut(&mut clients[1]).await;
    let mut another = from.host("192.0.2.2");
    assert_eq!(wait(&mut another).await, 55 * SECOND, "they fall idle as others do");
    assert_cut(&mut clients[2]).await;
    drop((clients, tcp, unix, another));
    ended(server, &[(Done, 3), (MadeRoomSilent, 2), (MadeRoomIdle, 1)]).await;
}

#[tokio::test(start_paused = true)]
async fn sessions_of_raw_bytes_and_plain_services_are_never_silent() {
    let raw = session(Lines::lf(), async |mut s: Session<Lines>| -> Result {
        let read = s.raw(1).await?;
        if read == "w" {
            s.feed_raw("raw")?;
        }
        s.flush().await?;
        std::future::pending().await
    });
    let (server, from) = with_room(3, raw).await;
    let (mut read, mut written, mut silent) =
        (from.host("192.0.2.1"), from.host("192.0.2.2"), from.host("192.0.2.3"));
    read.write_all(b"r").await.unwrap();
    ask(&mut written, "w", "raw").await;
    sleep(10 * SECOND).await;
    let mut newcomer = from.host("192.0.2.4");
    ask(&mut newcomer, "w", "raw").await;
    assert_cut(&mut silent).await;
    assert_eq!(server.counts().closed(MadeRoomSilent), 1);
    assert!(
        waits(&mut from.host("192.0.2.5"), 60 * MINUTE).await,
        "a session that does something else is not idle"
    );
    drop((read, written, newcomer));
    server.handle().stop();
    server.over().await;

    let (server, from) = with_room(2, Hold::default()).await;
    let mut clients = [from.host("192.0.2.1"), from.host("192.0.2.2")];
    sleep(10 * SECOND).await;
    ask(&mut clients[0], "b", "b").await;
    let mut newcomer = from.host("192.0.2.3");
    let start = Instant::now();
    ask(&mut newcomer, "a", "a").await;
    assert_eq!(start.elapsed(), 50 * SECOND);
    assert_cut(&mut clients[1]).await;
    drop((clients, newcomer));
    ended(server, &[(Done, 2), (MadeRoomIdle, 1)]).await;
}

#[tokio::test(start_paused = true)]
async fn each_rule_can_be_turned_off() {
    let rules = MakeRoom::new();
    for (rules, silent, idle, share) in [
        (Some(rules), true, true, true),
        (None, false, false, false),
        (Some(rules.silent(None)), false, true, true),
        (Some(rules.idle(None)), true, false, true),
        (Some(rules.share(false)), true, true, false),
    ] {
        let server = || limited(Server::new().max_connections(2).make_room(rules), shouter());
        let (running, from) = server().await;
        let _clients = (from.host("192.0.2.1"), served(&from, "192.0.2.2").await);
        sleep(10 * SECOND).await;
        is_let_in(running, &from, "192.0.2.3", silent).await;

        let (running, from) = server().await;
        let _clients = (served(&from, "192.0.2.1").await, served(&from, "192.0.2.2").await);
        sleep(2 * MINUTE).await;
        is_let_in(running, &from, "192.0.2.3", idle).await;

        let (running, from) = server().await;
        let _clients = (served(&from, "192.0.2.1").await, served(&from, "192.0.2.1").await);
        is_let_in(running, &from, "192.0.2.2", share).await;
    }
}

/// Asserts whether a client is served within a second, and ends the server.
async fn is_let_in(server: Running, from: &From, host: &str, expected: bool) {
    let mut client = from.host(host);
    assert_eq!(timeout(SECOND, wait(&mut client)).await.is_ok(), expected, "{:?}", server.counts());
    server.handle().stop();
    server.over().await;
}
