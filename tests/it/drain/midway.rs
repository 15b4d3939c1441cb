//! A drain that meets a connection in the middle of something.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use ropewalk::connection::Closing;
use ropewalk::{Lines, Result, Server, Session, framed, service_fn, session};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep, timeout};

use crate::harness::{LONG, on_memory, on_tcp, rest, settle};

/// Waits until the connection is told to drain, without reading.
async fn told(closing: Closing) {
    poll_fn(|cx| closing.poll_draining(cx)).await;
}

#[tokio::test]
async fn bytes_read_ahead_of_a_call_count_as_read() {
    let service = service_fn(async |_: Bytes| {
        tokio::task::yield_now().await;
        Ok("ok")
    });
    let server = on_tcp(Server::new(), framed(Lines::lf(), service)).await;
    let mut client = server.connect().await;
    settle().await;
    // More than one buffer.
    let line = [b"x".repeat(999), b"\n".to_vec()].concat();
    let sent = client.try_write(&line.repeat(600)).unwrap();
    let lines = sent / line.len();
    server.handle().drain(LONG);
    let answers = timeout(Duration::from_secs(10), rest(&mut client))
        .await
        .expect("the drain does not wait for its deadline");
    // All that had arrived, and of what the client's kernel still held as much as came without a
    // pause.
    let answered = answers.len() / "ok\n".len();
    assert_eq!(answers, "ok\n".repeat(answered));
    assert!((50..=lines).contains(&answered), "{answered} of {lines}");
    drop(client);
    server.over().await;
}

#[tokio::test]
async fn raw_bytes_count_as_read() {
    let leaf = session(Lines::lf(), async |mut s: Session<Lines>| {
        told(s.closing()).await;
        while let Some(line) = s.next().await? {
            let raw = s.raw(std::str::from_utf8(&line)?.parse()?).await?;
            s.feed(raw.len().to_string())?;
        }
        Ok(())
    });
    let server = on_tcp(Server::new(), leaf).await;
    let mut client = server.connect().await;
    client.write_all(b"300000\n").await.unwrap();
    client.write_all(&vec![b'b'; 300_000]).await.unwrap();
    server.handle().drain(LONG);
    let answers = timeout(Duration::from_secs(10), rest(&mut client))
        .await
        .expect("the drain does not wait for its deadline");
    assert_eq!(answers, "300000\n");
    drop(client);
    server.over().await;
}

#[test]
fn a_section_dropped_early_and_a_cancelled_raw_under_a_drain_come_to_an_end() {
    let (tell, over) = std::sync::mpsc::channel();
    // In a thread of its own: what went wrong was a poll that never returned.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let leaf = session(Lines::lf(), async |mut s: Session<Lines>| {
                told(s.closing()).await;
                assert!(s.next().await?.is_some());
                drop(s.raw_chunks(10)?);
                assert!(timeout(Duration::from_millis(1), s.raw(5)).await.is_err());
                assert!(s.next().await?.is_none());
                s.feed("ended")
            });
            let server = on_tcp(Server::new(), leaf).await;
            let mut client = server.connect().await;
            client.write_all(b"x\nabc").await.unwrap();
            server.handle().drain(LONG);
            tell.send(rest(&mut client).await).unwrap();
        });
    });
    assert_eq!(over.recv_timeout(Duration::from_secs(60)).as_deref(), Ok("ended\n"));
}

#[tokio::test(start_paused = true)]
async fn another_task_that_waits_for_the_drain_does_not_keep_the_session_from_hearing_of_it() {
    let leaf = session(Lines::lf(), async |mut s: Session<Lines>| -> Result {
        let closing = s.closing();
        tokio::spawn(async move {
            sleep(Duration::from_secs(1)).await;
            told(closing).await;
        });
        while s.next().await?.is_some() {}
        Ok(())
    });
    let (server, connector) = on_memory(Server::new(), leaf).await;
    let mut client = connector.connect().await.unwrap();
    sleep(Duration::from_secs(5)).await;
    let begin = Instant::now();
    server.handle().drain(LONG);
    assert_eq!(rest(&mut client).await, "");
    assert_eq!(begin.elapsed(), Duration::ZERO);
    drop(client);
    server.over().await;
}
