//! Which connection makes room, asked of the crowd itself.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ropewalk_middleware::crowd::{Choice, Crowd};
use ropewalk_middleware::{Addr, CloseReason, Connection, MakeRoom, Peer, Stream};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, advance};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn host(n: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, n).into()
}

/// A connection of frames in the crowd, from this host, whose first frame is waited for.
fn silent(crowd: &mut Crowd, n: u8) -> Connection {
    let connection = Connection::new(
        Stream::from_io(tokio::io::empty()),
        Peer::new(SocketAddr::new(host(n), 1)),
    );
    connection.stats().begin_frames();
    connection.stats().set_waiting(true);
    crowd.insert(connection.closing());
    connection
}

/// The same with its first frame.
fn spoken(crowd: &mut Crowd, n: u8) -> Connection {
    let connection = silent(crowd, n);
    connection.stats().add_frames_in(1);
    connection
}

async fn moves(connection: &mut Connection) {
    connection.write_all(b"x").await.unwrap();
    connection.stats().note_moved();
}

/// Asserts that this one is told to go.
#[track_caller]
fn goes(choice: Choice, which: &Connection, why: CloseReason) {
    let Choice::Abort(closing, reason) = choice else { panic!("{choice:?}") };
    closing.abort();
    assert!(which.closing().is_aborted(), "another one");
    assert_eq!(reason, why);
}

/// Asserts that no connection is closed, and from when on one may be.
#[track_caller]
fn stays(choice: Choice, until: Option<Instant>) {
    match choice {
        Choice::Nobody(next) => assert_eq!(next, until),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn one_without_a_first_frame_goes_at_five_seconds_and_the_oldest_first() {
    let (mut crowd, rules, start) = (Crowd::default(), MakeRoom::new(), Instant::now());
    stays(crowd.make_room(4, None, 0, &rules), None);
    let _spoken = spoken(&mut crowd, 1);
    let first = silent(&mut crowd, 2);
    advance(SECOND).await;
    let second = silent(&mut crowd, 3);
    stays(crowd.make_room(4, None, 0, &rules), Some(start + 5 * SECOND));
    advance(4 * SECOND - MS).await;
    stays(crowd.make_room(4, None, 0, &rules), Some(start + 5 * SECOND));
    advance(MS).await;
    goes(crowd.make_room(4, None, 0, &rules), &first, CloseReason::MadeRoomSilent);
    // It counts as gone, and the next one has its own five seconds.
    stays(crowd.make_room(4, None, 0, &rules), Some(start + 6 * SECOND));
    advance(2 * SECOND).await;
    goes(crowd.make_room(4, None, 0, &rules), &second, CloseReason::MadeRoomSilent);
    stays(crowd.make_room(4, None, 0, &rules.silent(None)), Some(start + 60 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_silent_one_of_an_address_above_its_share_goes_at_once() {
    let (mut crowd, rules, start) = (Crowd::default(), MakeRoom::new(), Instant::now());
    let first = silent(&mut crowd, 1);
    let _others = (silent(&mut crowd, 1), silent(&mut crowd, 1));
    // With the newcomer's there are two addresses, and three is more than half of four.
    goes(crowd.make_room(4, Some(host(2)), 0, &rules), &first, CloseReason::MadeRoomSilent);
    // Two is not; and one of the address itself has no other share.
    stays(crowd.make_room(4, Some(host(2)), 0, &rules), Some(start + 5 * SECOND));
    stays(crowd.make_room(4, Some(host(1)), 0, &rules), Some(start + 5 * SECOND));
    stays(crowd.make_room(1, Some(host(2)), 0, &rules.share(false)), Some(start + 5 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn the_longest_idle_one_goes_after_a_minute_unless_something_is_pending() {
    let (mut crowd, rules, start) = (Crowd::default(), MakeRoom::new(), Instant::now());
    let mut busy = spoken(&mut crowd, 1);
    let pending = spoken(&mut crowd, 2);
    advance(SECOND).await;
    let idle = spoken(&mut crowd, 3);
    advance(SECOND).await;
    moves(&mut busy).await;
    pending.stats().set_waiting(false);
    stays(crowd.make_room(3, None, 0, &rules), Some(start + 60 * SECOND));
    advance(58 * SECOND).await;
    // One has moved since, the other has its minute again from now on.
    stays(crowd.make_room(3, None, 0, &rules), Some(start + 61 * SECOND));
    advance(SECOND - MS).await;
    stays(crowd.make_room(3, None, 0, &rules), Some(start + 61 * SECOND));
    advance(MS).await;
    goes(crowd.make_room(3, None, 0, &rules), &idle, CloseReason::MadeRoomIdle);
    pending.stats().set_waiting(true);
    stays(crowd.make_room(3, None, 0, &rules), Some(start + 62 * SECOND));
    advance(SECOND).await;
    goes(crowd.make_room(3, None, 0, &rules), &busy, CloseReason::MadeRoomIdle);
    stays(crowd.make_room(3, None, 0, &rules), Some(start + 120 * SECOND));
    advance(58 * SECOND).await;
    stays(crowd.make_room(3, None, 0, &rules.idle(None)), None);
    goes(crowd.make_room(3, None, 0, &rules), &pending, CloseReason::MadeRoomIdle);
    stays(crowd.make_room(3, None, 0, &rules), None);
}

#[tokio::test(start_paused = true)]
async fn for_a_newcomer_below_its_share_the_longest_idle_of_the_largest_address_goes() {
    let (mut crowd, rules, start) = (Crowd::default(), MakeRoom::new(), Instant::now());
    let mut many = Vec::new();
    for _ in 0..5 {
        many.push(spoken(&mut crowd, 1));
        advance(MS).await;
    }
    // Others have fewer, one of them silent.
    let _few = [spoken(&mut crowd, 2), spoken(&mut crowd, 2), silent(&mut crowd, 2)];
    moves(&mut many[0]).await;
    // Nine places for three addresses are three for each.
    goes(crowd.make_room(9, Some(host(3)), 0, &rules), &many[1], CloseReason::MadeRoomShare);
    goes(crowd.make_room(9, Some(host(3)), 2, &rules), &many[2], CloseReason::MadeRoomShare);
    // Now no address has more.
    stays(crowd.make_room(9, Some(host(3)), 0, &rules), Some(start + 5 * MS + 5 * SECOND));
    many.push(spoken(&mut crowd, 1));
    // With three to come it has its share, as have the two addresses that are there; a peer without
    // an address has no share.
    for (cap, newcomer, coming) in
        [(9, Some(host(3)), 3), (6, Some(host(1)), 0), (6, Some(host(2)), 0), (9, None, 0)]
    {
        assert!(
            matches!(crowd.make_room(cap, newcomer, coming, &rules), Choice::Nobody(_)),
            "{newcomer:?} {coming}"
        );
    }
    assert!(matches!(crowd.make_room(9, Some(host(3)), 0, &rules.share(false)), Choice::Nobody(_)));
    goes(crowd.make_room(9, Some(host(3)), 2, &rules), &many[3], CloseReason::MadeRoomShare);
}

#[tokio::test(start_paused = true)]
async fn one_that_came_twice_or_has_gone_counts_once_or_not_at_all() {
    let (mut crowd, rules) = (Crowd::default(), MakeRoom::new());
    let (first, second) = (spoken(&mut crowd, 1), spoken(&mut crowd, 1));
    let plain = Connection::new(Stream::from_io(tokio::io::empty()), Peer::new(Addr::Unix(None)));
    crowd.insert(plain.closing());
    crowd.insert(first.closing());
    crowd.remove(&second.closing());
    crowd.remove(&second.closing());
    advance(60 * SECOND).await;
    goes(crowd.make_room(3, None, 0, &rules), &first, CloseReason::MadeRoomIdle);
    goes(crowd.make_room_now(3, None, &rules), &plain, CloseReason::MadeRoomIdle);
    stays(crowd.make_room_now(3, None, &rules), None);
}

#[tokio::test(start_paused = true)]
async fn after_256_looks_it_asks_for_another_turn() {
    let (mut crowd, rules) = (Crowd::default(), MakeRoom::new());
    let mut many: Vec<_> = (0..300).map(|_| spoken(&mut crowd, 1)).collect();
    // Each of them has spoken, which it learns by looking.
    assert!(matches!(crowd.make_room(300, None, 0, &rules), Choice::Undecided));
    assert!(matches!(crowd.make_room(300, None, 0, &rules), Choice::Nobody(Some(_))));
    advance(60 * SECOND).await;
    for connection in &mut many[1..] {
        moves(connection).await;
    }
    goes(crowd.make_room(300, None, 0, &rules), &many[0], CloseReason::MadeRoomIdle);
    moves(&mut many[1]).await;
    assert!(matches!(crowd.make_room(300, None, 0, &rules), Choice::Undecided));
    assert!(matches!(crowd.make_room(300, None, 0, &rules), Choice::Nobody(Some(_))));
}

#[tokio::test(start_paused = true)]
async fn a_time_beyond_the_clock_is_a_year() {
    let (mut crowd, start) = (Crowd::default(), Instant::now());
    let _silent = silent(&mut crowd, 1);
    let rules = MakeRoom::new().silent(Duration::MAX).idle(Duration::MAX);
    stays(crowd.make_room(1, None, 0, &rules), Some(start + 365 * 24 * 3600 * SECOND));
}
