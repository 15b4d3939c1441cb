//! A frame that has begun has its time, without any layer; one that has not has all the time there
//! is.

use std::time::Duration;

use bytes::Bytes;
use ropewalk::connection::ReadDeadlines;
use ropewalk::memory::{Connector, MemoryStream};
use ropewalk::{
    CloseReason, ConnectionService, Error, LengthPrefixed, Lines, ReadDeadlineLayer, Server,
    Session, framed, reply_fn, service_fn, session,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep};
use tokio_util::codec::LengthDelimitedCodec;

use crate::harness::{Running, ask, assert_reasons, on_memory, rest, shouter};

const SECOND: Duration = Duration::from_secs(1);

async fn serve(leaf: impl ConnectionService<Error = Error>) -> (Running, Connector) {
    on_memory(Server::new(), leaf).await
}

/// When the other side ended the connection, to which nothing is said any more.
async fn cut_off(mut client: MemoryStream) -> Duration {
    let start = Instant::now();
    rest(&mut client).await;
    start.elapsed()
}

async fn ended(server: Running, expected: &[(CloseReason, u64)]) {
    server.until("all have ended", |counts| counts.active() == 0).await;
    assert_reasons(&server.end().await, expected);
}

#[tokio::test(start_paused = true)]
async fn a_line_that_is_not_finished_in_thirty_seconds_ends_the_connection_and_silence_does_not() {
    let (server, connector) = serve(shouter()).await;
    let mut client = connector.connect().await.unwrap();
    for _ in 0..3 {
        sleep(3600 * SECOND).await;
        client.write_all(b"ha").await.unwrap();
        sleep(29 * SECOND).await;
        ask(&mut client, "lf\n", "HALF\n").await;
    }
    client.write_all(b"more and").await.unwrap();
    assert_eq!(cut_off(client).await, 30 * SECOND);
    ended(server, &[(CloseReason::FrameTimeout, 1)]).await;
}

#[tokio::test(start_paused = true)]
async fn a_line_that_drips_is_no_excuse() {
    let (server, connector) = serve(shouter()).await;
    let client = connector.connect().await.unwrap();
    let start = Instant::now();
    let (mut read, mut write) = tokio::io::split(client);
    let dripping = tokio::spawn(async move {
        while write.write_all(b"x").await.is_ok() && {
            sleep(SECOND).await;
            true
        } {}
    });
    assert_eq!(rest(&mut read).await, "");
    assert_eq!(start.elapsed(), 30 * SECOND);
    dripping.abort();
    drop(read);
    ended(server, &[(CloseReason::FrameTimeout, 1)]).await;
}

#[tokio::test(start_paused = true)]
async fn each_64_kib_that_have_come_give_a_frame_its_time_again() {
    let frames = LengthPrefixed::u32().max(1 << 20);
    let (server, connector) =
        serve(framed(frames, reply_fn(|frame: Bytes| Bytes::from(frame.len().to_string())))).await;
    let mut client = connector.connect().await.unwrap();
    let start = Instant::now();
    client.write_all(&(300 * 1024_u32).to_be_bytes()).await.unwrap();
    // 60 KiB each 25 s: it takes more than 30 s, and less than what has come gives it.
    for _ in 0..5 {
        client.write_all(&[7; 60 * 1024]).await.unwrap();
        sleep(25 * SECOND).await;
    }
    assert_eq!(start.elapsed(), 125 * SECOND);
    let mut answer = [0; 10];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"\0\0\0\x06307200");

    // A second one, of which 130 KiB come: its time is three times 30 s.
    client.write_all(&(300 * 1024_u32).to_be_bytes()).await.unwrap();
    client.write_all(&[7; 130 * 1024]).await.unwrap();
    assert_eq!(cut_off(client).await, 90 * SECOND);
    ended(server, &[(CloseReason::FrameTimeout, 1)]).await;
}

#[tokio::test(start_paused = true)]
async fn a_head_that_a_foreign_codec_has_taken_is_a_frame_that_has_begun() {
    let leaf =
        framed(LengthDelimitedCodec::new(), reply_fn(|frame: bytes::BytesMut| frame.freeze()));
    let (server, connector) = serve(leaf).await;
    let mut client = connector.connect().await.unwrap();
    client.write_all(&[0, 0, 0, 9]).await.unwrap();
    assert_eq!(cut_off(client).await, 30 * SECOND);
    ended(server, &[(CloseReason::FrameTimeout, 1)]).await;
}

#[tokio::test(start_paused = true)]
async fn the_time_in_which_an_answer_is_pending_does_not_count() {
    let slow = service_fn(async |line: Bytes| {
        sleep(500 * SECOND).await;
        Ok(line)
    });
    let (server, connector) = serve(framed(Lines::lf(), slow)).await;
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "a\nhal", "a\n").await;
    sleep(29 * SECOND).await;
    ask(&mut client, "f\n", "half\n").await;
    drop(client);
    ended(server, &[(CloseReason::Done, 1)]).await;
}

#[tokio::test(start_paused = true)]
async fn raw_bytes_have_begun_with_their_first_byte() {
    let leaf = session(Lines::lf(), async |mut s: Session<Lines>| {
        while s.next().await?.is_some() {
            let raw = s.raw(5).await?;
            s.feed(raw)?;
            let mut chunks = s.raw_chunks(10)?;
            while chunks.next().await?.is_some() {}
        }
        Ok(())
    });
    let (server, connector) = serve(leaf).await;
    let mut client = connector.connect().await.unwrap();
    client.write_all(b"put\n").await.unwrap();
    sleep(500 * SECOND).await;
    client.write_all(b"12").await.unwrap();
    sleep(29 * SECOND).await;
    client.write_all(b"345").await.unwrap();
    for _ in 0..10 {
        sleep(500 * SECOND).await;
        client.write_all(b"x").await.unwrap();
    }
    sleep(500 * SECOND).await;
    client.write_all(b"put\n12").await.unwrap();
    assert_eq!(cut_off(client).await, 30 * SECOND);
    ended(server, &[(CloseReason::FrameTimeout, 1)]).await;
}

#[tokio::test(start_paused = true)]
async fn unread_raw_bytes_that_do_not_come_give_the_next_frame_no_less_time() {
    let leaf = session(Lines::lf(), async |mut s: Session<Lines>| {
        while let Some(line) = s.next().await? {
            if line == "skip" {
                drop(s.raw_chunks(10)?);
            }
            s.feed(line)?;
        }
        Ok(())
    });
    let (server, connector) = serve(leaf).await;
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "skip\n1234", "skip\n").await;
    sleep(20 * SECOND).await;
    client.write_all(b"567890").await.unwrap();
    sleep(500 * SECOND).await;
    client.write_all(b"ne").await.unwrap();
    sleep(20 * SECOND).await;
    ask(&mut client, "xt\n", "next\n").await;
    drop(client);
    ended(server, &[(CloseReason::Done, 1)]).await;
}

#[tokio::test(start_paused = true)]
async fn it_can_be_changed_and_turned_off_and_a_layers_deadlines_take_its_place() {
    let leaf = || framed(Lines::lf(), reply_fn(|line: Bytes| line));
    let late = |client: MemoryStream| async move {
        let mut client = client;
        client.write_all(b"half").await.unwrap();
        cut_off(client).await
    };
    let (server, connector) = serve(leaf().frame_deadline(7 * SECOND)).await;
    assert_eq!(late(connector.connect().await.unwrap()).await, 7 * SECOND);
    ended(server, &[(CloseReason::FrameTimeout, 1)]).await;

    let layer = ReadDeadlineLayer::new().frame(9 * SECOND).first_frame(None);
    let (server, connector) = on_memory(Server::new().layer(layer), leaf()).await;
    let mut client = connector.connect().await.unwrap();
    // The layer's is for all of a frame, however much has come.
    client.write_all(&[b'x'; 16_000]).await.unwrap();
    assert_eq!(cut_off(client).await, 9 * SECOND);
    ended(server, &[(CloseReason::FrameTimeout, 1)]).await;

    let off = session(Lines::lf(), async |mut s: Session<Lines>| {
        s.set_read_deadlines(ReadDeadlines::OFF);
        while let Some(line) = s.next().await? {
            s.feed(line)?;
        }
        Ok(())
    });
    let without = ReadDeadlineLayer::new().first_frame(None).frame(None);
    for server in [
        serve(leaf().frame_deadline(None)).await,
        serve(off).await,
        on_memory(Server::new().layer(without), leaf()).await,
    ] {
        let (server, connector) = server;
        let mut client = connector.connect().await.unwrap();
        client.write_all(b"ha").await.unwrap();
        sleep(3600 * SECOND).await;
        ask(&mut client, "lf\n", "half\n").await;
        drop(client);
        ended(server, &[(CloseReason::Done, 1)]).await;
    }
}
