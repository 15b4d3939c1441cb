//! The code of `docs/pushing.md`, run.

use std::time::Duration;

use ropewalk::{
    Bytes, BytesMut, CloseReason, Encoder, Handle, Lines, Member, Opened, Outbox, PushError, ReadDeadlineLayer,
    ReadDeadlines, Reply, Result, Room, Server, Session, SlowConsumer, per_connection, reply_fn, session,
};
use tokio::time::{Instant, interval, sleep};

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
        s.reply(line)?;
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
            // A subscriber may be silent for as long as it likes.
            connection.set_read_deadlines(ReadDeadlines::OFF);
            Reply::one("+subscribed".into())
        }
        b"unsubscribe" => {
            drop(member.take());
            Reply::one("+unsubscribed".into())
        }
        _ => Reply::one(format!(":{}", topic.push(line)).into()),
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
    s.reply("60 s have passed")
}

/// Stores an outbox on each connection, for `warn`.
async fn reachable(mut s: Session<Lines>) -> Result {
    let outbox: Outbox<Bytes> = s.outbox(8, SlowConsumer::Refuse);
    s.info().insert(outbox);
    while let Some(line) = s.next().await? {
        s.reply(line)?;
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
            // Its outbox is full, so it has not read for a while: waiting for it would be pointless.
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
    assert_eq!(rest(&mut publisher).await, "", "it is idle");
    sleep(Duration::from_secs(1000)).await;
    ask(&mut subscriber, "unsubscribe\nnews\n", "+unsubscribed\n:0\n").await;
    let ended = tokio::spawn(server.end());
    assert_eq!(rest(&mut subscriber).await, "-shutting down\n");
    assert_reasons(&ended.await.unwrap(), &[(CloseReason::Drained, 1), (CloseReason::IdleTimeout, 1)]);
}

#[tokio::test(start_paused = true)]
async fn what_is_encoded_once_reaches_all() {
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
