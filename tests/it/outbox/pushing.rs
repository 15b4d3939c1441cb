//! The code of `docs/pushing.md`, run.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ropewalk::codec::Encoder;
use ropewalk::connection::ReadDeadlines;
use ropewalk::outbox::{Member, PushError};
use ropewalk::{
    Bytes, BytesMut, CloseReason, Handle, Lines, Opened, Outbox, ReadDeadlineLayer, Reply, Result,
    Room, Server, Session, SlowConsumer, per_connection, reply_fn, session,
};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::harness::{all_done, ask, assert_reasons, expect, on_memory, rest, settle};

/// Sends the time each second, and echoes the lines it receives.
async fn clock(mut s: Session<Lines>) -> Result {
    let outbox = s.outbox(8, SlowConsumer::DropOldest);
    tokio::spawn(async move {
        let (begin, mut seconds) = (Instant::now(), interval(Duration::from_secs(1)));
        loop {
            let time = seconds.tick().await - begin;
            if outbox.push(format!("{} s", time.as_secs())).is_err() {
                // The connection is gone.
                return;
            }
        }
    });
    while let Some(line) = s.next().await? {
        s.feed(line)?;
    }
    Ok(())
}

/// Answers `subscribe` and `unsubscribe`, and pushes every other line to all subscribers.
fn commands(
    connection: &Opened<Lines>,
    topic: Room<Bytes>,
) -> impl FnMut(Bytes) -> Reply<Bytes> + Send + 'static + use<> {
    let outbox = connection.outbox(64, SlowConsumer::DropOldest);
    let connection = connection.info();
    // While this is `Some`, the connection is in the room.
    let mut member: Option<Member<Bytes>> = None;
    move |line| match &line[..] {
        b"subscribe" => {
            drop(member.replace(topic.join(outbox.clone())));
            // A subscriber may be silent for as long as it likes, but not within a line.
            connection.set_read_deadlines(ReadDeadlines::default().idle(None));
            Reply::one("+subscribed".into())
        }
        b"unsubscribe" => {
            drop(member.take());
            connection.set_read_deadlines(ReadDeadlines::default());
            Reply::one("+unsubscribed".into())
        }
        _ => Reply::one(format!(":{}", topic.push(line)).into()),
    }
}

/// Passes on each guest's lines, at most ten a second. A faster guest is slowed down by its own
/// full socket.
async fn paced(mut s: Session<Lines>, room: Room<Bytes>) -> Result {
    let me = room.join(s.outbox(64, SlowConsumer::Disconnect));
    let mut pace = interval(Duration::from_millis(100));
    // By default an interval makes up for lost ticks, and so would not slow down a guest that was
    // silent before.
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while let Some(line) = s.next().await? {
        room.send_except(me.id(), line).await;
        s.during_idle(pace.tick()).await?;
    }
    Ok(())
}

/// Rooms by name. Peers choose the names, so an empty room is removed.
type Rooms = Arc<Mutex<HashMap<Bytes, Room<Bytes>>>>;

/// A member of a room that has a name. Dropping it leaves the room.
struct Seat {
    rooms: Rooms,
    name: Bytes,
    member: Option<Member<Bytes>>,
}

impl Seat {
    fn take(rooms: &Rooms, name: Bytes, outbox: Outbox<Bytes>) -> Self {
        let member =
            rooms.lock().expect("no panic under it").entry(name.clone()).or_default().join(outbox);
        Self { rooms: Arc::clone(rooms), name, member: Some(member) }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Under the lock of the map, so that no other connection joins a room that is being
        // removed.
        let mut rooms = self.rooms.lock().expect("no panic under it");
        drop(self.member.take());
        if rooms.get(&self.name).is_some_and(Room::is_empty) {
            rooms.remove(&self.name);
        }
    }
}

/// Encodes a line once and pushes it to all members, which have joined with `outbox_raw`.
async fn announce(room: &Room<Bytes>, line: &str) -> Result<usize> {
    let mut encoded = BytesMut::new();
    Lines::crlf().encode(line, &mut encoded)?;
    Ok(room.send(encoded.freeze()).await)
}

/// Sends a line when a minute has passed. Frames sent to the room are written meanwhile.
async fn collect(mut s: Session<Lines>, room: Room<Bytes>) -> Result {
    let _member = room.join(s.outbox(64, SlowConsumer::DropNewest));
    s.during_idle(sleep(Duration::from_secs(60))).await?;
    s.feed("60 s have passed")
}

/// Stores an outbox on each connection, for `warn`.
async fn reachable(mut s: Session<Lines>) -> Result {
    let outbox: Outbox<Bytes> = s.outbox(8, SlowConsumer::Refuse);
    s.info().insert(outbox);
    while let Some(line) = s.next().await? {
        s.feed(line)?;
    }
    Ok(())
}

/// Pushes a text to all connections older than `age`, and drains them.
fn warn(handle: &Handle, age: Duration, text: &'static str) {
    let old = handle.connections_where(|connection| connection.age() > age);
    for connection in &old {
        if let Some(outbox) = connection.get::<Outbox<Bytes>>()
            && let Err(PushError::Full(_)) = outbox.push(Bytes::from_static(text.as_bytes()))
        {
            // Its outbox is full, so it has not read for a while: waiting for it would be
            // pointless.
            connection.abort();
        }
    }
    handle.drain_these(&old, Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn the_clock_ticks_and_answers() {
    let (server, connector) = on_memory(Server::new(), session(Lines::lf(), clock)).await;
    let mut client = connector.connect().await.unwrap();
    expect(&mut client, "0 s\n1 s\n").await;
    ask(&mut client, "hello\n", "hello\n").await;
    expect(&mut client, "2 s\n").await;
    drop(client);
    all_done(server).await;
}

#[tokio::test(start_paused = true)]
async fn a_topic_has_subscribers_that_may_be_silent() {
    let topic = Room::new();
    let leaf = per_connection(Lines::lf(), move |connection| reply_fn(commands(connection, topic)))
        .on_drain(|| Bytes::from_static(b"-shutting down"));
    let (server, connector) = on_memory(Server::new().layer(ReadDeadlineLayer::new()), leaf).await;
    let mut subscriber = connector.connect().await.unwrap();
    let mut publisher = connector.connect().await.unwrap();
    ask(&mut publisher, "news\n", ":0\n").await;
    ask(&mut subscriber, "subscribe\n", "+subscribed\n").await;
    ask(&mut publisher, "news\n", ":1\n").await;
    expect(&mut subscriber, "news\n").await;
    let mut fickle = connector.connect().await.unwrap();
    ask(&mut fickle, "subscribe\nunsubscribe\n", "+subscribed\n+unsubscribed\n").await;
    assert_eq!(rest(&mut publisher).await, "", "it is idle");
    assert_eq!(rest(&mut fickle).await, "", "it is not a subscriber any more");
    sleep(Duration::from_secs(1000)).await;
    ask(&mut subscriber, "unsubscribe\nnews\n", "+unsubscribed\n:0\n").await;
    let ended = tokio::spawn(server.end());
    assert_eq!(rest(&mut subscriber).await, "-shutting down\n");
    assert_reasons(
        &ended.await.unwrap(),
        &[(CloseReason::Drained, 1), (CloseReason::IdleTimeout, 2)],
    );
}

#[tokio::test(start_paused = true)]
async fn a_fast_guest_is_slowed_down_and_a_silent_one_has_no_more_at_once() {
    let room = Room::new();
    let (server, connector) =
        on_memory(Server::new(), session(Lines::lf(), move |s| paced(s, room.clone()))).await;
    let mut fast = connector.connect().await.unwrap();
    let mut reader = connector.connect().await.unwrap();
    settle().await;
    sleep(Duration::from_secs(100)).await;
    let begin = Instant::now();
    fast.write_all("line\n".repeat(300).as_bytes()).await.unwrap();
    expect(&mut reader, &"line\n".repeat(300)).await;
    assert!(begin.elapsed() > Duration::from_secs(29), "{:?}", begin.elapsed());
    drop((fast, reader));
    all_done(server).await;
}

#[tokio::test(start_paused = true)]
async fn a_named_room_is_there_as_long_as_it_has_members() {
    let rooms = Rooms::default();
    let shared = Arc::clone(&rooms);
    let leaf = session(Lines::lf(), move |mut s: Session<Lines>| {
        let rooms = Arc::clone(&shared);
        async move {
            let outbox = s.outbox(8, SlowConsumer::Disconnect);
            let mut seats = Vec::new();
            while let Some(name) = s.next().await? {
                seats.push(Seat::take(&rooms, name, outbox.clone()));
                s.feed("in")?;
            }
            Ok(())
        }
    });
    let (server, connector) = on_memory(Server::new(), leaf).await;
    let [mut one, mut two] =
        [connector.connect().await.unwrap(), connector.connect().await.unwrap()];
    ask(&mut one, "a\nb\n", "in\nin\n").await;
    ask(&mut two, "b\n", "in\n").await;
    let sizes = || {
        let rooms = rooms.lock().unwrap();
        ["a", "b"].map(|name| rooms.get(name.as_bytes()).map(Room::len))
    };
    assert_eq!(sizes(), [Some(1), Some(2)]);
    drop(one);
    settle().await;
    assert_eq!(sizes(), [None, Some(1)]);
    drop(two);
    all_done(server).await;
    assert!(rooms.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_is_encoded_once_reaches_all() {
    let room = Room::new();
    let members = room.clone();
    let leaf = session(Lines::crlf(), move |mut s: Session<Lines>| {
        let member = members.join(s.outbox_raw(8, SlowConsumer::Disconnect));
        async move {
            while s.next().await?.is_some() {}
            drop(member);
            Ok(())
        }
    });
    let (server, connector) = on_memory(Server::new(), leaf).await;
    let mut clients = [connector.connect().await.unwrap(), connector.connect().await.unwrap()];
    settle().await;
    assert_eq!(announce(&room, "hear, hear").await.unwrap(), 2);
    for client in &mut clients {
        expect(client, "hear, hear\r\n").await;
    }
    drop(clients);
    all_done(server).await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_waits_idly_hears_its_room() {
    let room = Room::new();
    let members = room.clone();
    let leaf = session(Lines::lf(), move |s| collect(s, members.clone()));
    let (server, connector) = on_memory(Server::new(), leaf).await;
    let mut client = connector.connect().await.unwrap();
    settle().await;
    room.push("news".into());
    expect(&mut client, "news\n").await;
    assert_eq!(rest(&mut client).await, "60 s have passed\n");
    drop(client);
    all_done(server).await;
}

#[tokio::test(start_paused = true)]
async fn old_connections_are_warned_and_leave() {
    let (server, connector) = on_memory(Server::new(), session(Lines::lf(), reachable)).await;
    let mut old = connector.connect().await.unwrap();
    ask(&mut old, "hello\n", "hello\n").await;
    sleep(Duration::from_secs(100)).await;
    let mut new = connector.connect().await.unwrap();
    ask(&mut new, "hello\n", "hello\n").await;
    warn(server.handle(), Duration::from_secs(50), "please come back");
    assert_eq!(rest(&mut old).await, "please come back\n");
    ask(&mut new, "hello\n", "hello\n").await;
    drop(new);
    assert_reasons(&server.end().await, &[(CloseReason::Done, 1), (CloseReason::Drained, 1)]);
}
