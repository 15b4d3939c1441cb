//! Peers that read slowly, or not at all.

use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ropewalk::{
    CloseReason, Lines, Server, Session, SessionError, framed, memory, service_fn, session,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use crate::harness::{Running, on_memory, settle};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn half_an_answer_that_is_never_read_does_not_look_whole() {
    for how in ["drop", "close", "send"] {
        let (endpoint, connector) = memory::endpoint_with_capacity(1024);
        let leaf = session(Lines::lf(), move |mut s: Session<Lines>| async move {
            if how == "send" {
                s.send(vec![b'x'; 5000]).await?;
            }
            s.feed(vec![b'x'; 5000])?;
            if how == "close" {
                s.close().await?;
            }
            Ok(())
        })
        .write_stall(SECOND);
        let server = Running::start(Server::new().listen(endpoint).serve(leaf)).await;
        let mut client = connector.connect().await.unwrap();
        sleep(SECOND * 5).await;
        let ended = client.read_to_end(&mut Vec::new()).await;
        assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset, "{how}");
        assert_eq!(server.handle().counts().closed(CloseReason::Timeout), 1, "{how}");
        server.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_answers_have_four_write_stalls_in_all() {
    let (endpoint, connector) = memory::endpoint_with_capacity(1);
    let leaf = session(Lines::lf(), async |mut s: Session<Lines>| s.feed(vec![b'x'; 5000]))
        .write_stall(SECOND * 30);
    let server = Running::start(Server::new().listen(endpoint).serve(leaf)).await;
    let mut client = connector.connect().await.unwrap();
    let start = Instant::now();
    // It never stalls: it takes a byte every ten seconds.
    let mut heard = 0;
    while client.read_u8().await.is_ok() {
        heard += 1;
        sleep(SECOND * 10).await;
    }
    assert_eq!((heard, start.elapsed()), (13, SECOND * 130));
    server.until("it is counted", |counts| counts.closed(CloseReason::Timeout) == 1).await;
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn calls_go_on_while_an_answer_is_partly_taken() {
    for capacity in [1, 50 * 1024] {
        let (go, went_on) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
        let call = (Arc::clone(&go), Arc::clone(&went_on));
        let service = service_fn(move |line: Bytes| {
            let (go, went_on) = call.clone();
            async move {
                go.notified().await;
                if line == "b" {
                    went_on.store(true, Ordering::SeqCst);
                }
                Ok(Bytes::from(vec![b'x'; 16_000]))
            }
        });
        let (endpoint, connector) = memory::endpoint_with_capacity(capacity);
        let leaf = framed(Lines::lf(), service).concurrent(8);
        let server = Running::start(Server::new().listen(endpoint).serve(leaf)).await;
        let mut client = connector.connect().await.unwrap();
        client.write_all(b"a\na\na\na\na\na\na\nb\n").await.unwrap();
        settle().await;
        go.notify_waiters();
        sleep(SECOND).await;
        assert!(went_on.load(Ordering::SeqCst), "with room for {capacity}");
        drop(client);
        server.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn raw_bytes_come_no_faster_than_their_echo_is_taken() {
    const BLOCK: usize = 64 * 1024;
    let leaf = session(Lines::lf(), async |mut s: Session<Lines>| {
        for _ in 0..64 {
            let block = s.raw(BLOCK as u64).await?;
            s.feed_raw(&block)?;
        }
        Ok(())
    });
    let (server, connector) = on_memory(Server::new(), leaf).await;
    let (mut read, mut write) = tokio::io::split(connector.connect().await.unwrap());
    let writer =
        tokio::spawn(async move { write.write_all(&vec![b'x'; 64 * BLOCK]).await.map(|()| write) });
    let (mut heard, mut buf) = (0, [0; 4096]);
    loop {
        sleep(Duration::from_millis(10)).await;
        match read.read(&mut buf).await.unwrap() {
            0 => break,
            n => heard += n,
        }
    }
    assert_eq!(heard, 64 * BLOCK);
    drop((read, writer.await.unwrap().unwrap()));
    server.end().await;
}

#[tokio::test]
async fn a_slow_reader_elsewhere_does_not_cost_this_one_its_answers() {
    // A service may come upon the stalled peer of another connection.
    let service = service_fn(async |line: Bytes| match &line[..] {
        b"b" => Err(SessionError::WriteStalled.into()),
        _ => Ok("A"),
    });
    let (server, connector) = on_memory(Server::new(), framed(Lines::lf(), service)).await;
    let mut client = connector.connect().await.unwrap();
    client.write_all(b"a\nb\n").await.unwrap();
    let mut heard = String::new();
    client.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "A\n");
    drop(client);
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_next_to_nothing_is_given_up() {
    let (endpoint, connector) = memory::endpoint_with_capacity(1);
    let leaf =
        framed(Lines::lf().unlimited(), service_fn(async |_: Bytes| Ok(vec![b'x'; 1 << 20])));
    let server = Running::start(Server::new().listen(endpoint).serve(leaf)).await;
    let mut client = connector.connect().await.unwrap();
    client.write_all(b"a").await.unwrap();
    client.write_all(b"\n").await.unwrap();
    let start = Instant::now();
    // Each byte is taken before the write stall has passed.
    let mut heard = 0;
    while client.read_u8().await.is_ok() {
        heard += 1;
        sleep(SECOND * 29).await;
    }
    assert_eq!((heard, start.elapsed()), (5, SECOND * 145));
    server.until("it is counted", |counts| counts.closed(CloseReason::Timeout) == 1).await;
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_its_answers_slowly_gets_them_all() {
    let (endpoint, connector) = memory::endpoint_with_capacity(1024);
    let leaf =
        framed(Lines::lf().unlimited(), service_fn(async |_: Bytes| Ok(vec![b'x'; 512 * 1024])));
    let server = Running::start(Server::new().listen(endpoint).serve(leaf)).await;
    let mut client = connector.connect().await.unwrap();
    client.write_all(b"a\nb\n").await.unwrap();
    for _ in 0..1024 {
        client.read_exact(&mut [0; 1024]).await.unwrap();
        sleep(SECOND).await;
    }
    client.read_exact(&mut [0; 2]).await.unwrap();
    drop(client);
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_last_answer_that_is_taken_steadily_arrives_however_long_it_is() {
    const SIZE: usize = 20 << 20;
    let (endpoint, connector) = memory::endpoint_with_capacity(10 * 1024);
    let leaf =
        session(Lines::lf().unlimited(), async |mut s: Session<Lines>| s.feed(vec![b'x'; SIZE]));
    let server = Running::start(Server::new().listen(endpoint).serve(leaf)).await;
    let mut client = connector.connect().await.unwrap();
    let (mut heard, mut buf) = (0, vec![0; 10 * 1024]);
    // 100 KiB a second, for more than three minutes.
    loop {
        match client.read(&mut buf).await.unwrap() {
            0 => break,
            n => heard += n,
        }
        sleep(SECOND / 10).await;
    }
    assert_eq!(heard, SIZE + 1);
    drop(client);
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn time_in_which_the_author_offers_nothing_is_not_held_against_the_peer() {
    for how in ["next", "flush", "during"] {
        let (endpoint, connector) = memory::endpoint_with_capacity(1024);
        let leaf = session(Lines::lf().unlimited(), move |mut s: Session<Lines>| async move {
            s.next().await?;
            s.feed(vec![b'x'; 30_000])?;
            // For a moment; then the author turns to something else.
            let moment = SECOND / 100;
            match how {
                "next" => drop(timeout(moment, s.next()).await),
                "flush" => drop(timeout(moment, s.flush()).await),
                _ => s.during(sleep(moment)).await?,
            }
            sleep(SECOND * 121).await;
            s.next().await.map(|_| ())
        });
        let server = Running::start(Server::new().listen(endpoint).serve(leaf)).await;
        let mut client = connector.connect().await.unwrap();
        client.write_all(b"a\n").await.unwrap();
        client.shutdown().await.unwrap();
        // It takes all that there is, at once.
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard.len(), 30_001, "{how}");
        server.end().await;
    }
}

/// Uses up its turn again and again, for two seconds.
async fn busy() {
    let start = Instant::now();
    while start.elapsed() < SECOND * 2 {
        tokio::task::coop::consume_budget().await;
    }
}

#[tokio::test]
async fn a_call_that_is_always_busy_does_not_make_a_peer_that_reads_a_stalled_one() {
    let during = session(Lines::lf(), async |mut s: Session<Lines>| {
        s.next().await?;
        s.feed("first")?;
        s.during(busy()).await
    });
    let call = service_fn(async |line: Bytes| {
        if line == "busy" {
            busy().await;
        }
        Ok("first")
    });
    let (sessions, connect_session) =
        on_memory(Server::new(), during.write_stall(SECOND / 4)).await;
    let (calls, connect_call) =
        on_memory(Server::new(), framed(Lines::lf(), call).write_stall(SECOND / 4)).await;
    for connector in [connect_session, connect_call] {
        let mut client = connector.connect().await.unwrap();
        client.write_all(b"quick\nbusy\n").await.unwrap();
        let mut heard = [0; 6];
        client.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"first\n");
        client.shutdown().await.unwrap();
        client.read_to_end(&mut Vec::new()).await.unwrap();
    }
    sessions.end().await;
    calls.end().await;
}

#[tokio::test]
async fn a_reply_above_the_high_water_mark_tries_to_write_before_it_fails() {
    // The author pushes, and never comes to `next`.
    let pushes = session(Lines::lf().unlimited(), async |mut s: Session<Lines>| {
        for _ in 0..10 {
            for _ in 0..10 {
                s.feed(vec![b'x'; 60_000])?;
                settle().await;
            }
            s.feed_raw(vec![b'x'; 600_000])?;
            settle().await;
        }
        Ok(())
    });
    let (endpoint, connector) = memory::endpoint_with_capacity(1 << 20);
    let server = Running::start(Server::new().listen(endpoint).serve(pushes)).await;
    let mut client = connector.connect().await.unwrap();
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard.len(), 10 * (600_010 + 600_000));
    drop(client);
    server.end().await;
}

/// Takes what has arrived.
fn drain(client: &mut std::net::TcpStream, heard: &mut usize, buf: &mut [u8]) {
    loop {
        match client.read(buf) {
            Ok(n) => *heard += n,
            Err(error) => return assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
}

/// On a runtime of one thread, which hears nothing of the socket meanwhile.
#[tokio::test]
async fn pushes_without_a_pause_reach_a_peer_that_reads_as_fast_as_they_come() {
    use std::sync::Mutex;

    const PUSH: usize = 100_000;
    let slot = Arc::new(Mutex::new(None::<std::net::TcpStream>));
    let peer = Arc::clone(&slot);
    let pushes = session(Lines::lf().unlimited(), move |mut s: Session<Lines>| {
        let peer = Arc::clone(&peer);
        async move {
            s.next().await?;
            let (mut client, mut heard, mut buf) =
                (peer.lock().unwrap().take().unwrap(), 0, vec![0; 1 << 20]);
            for _ in 0..60 {
                s.feed_raw(vec![b'x'; PUSH])?;
                drain(&mut client, &mut heard, &mut buf);
            }
            *peer.lock().unwrap() = Some(client);
            s.flush().await
        }
    });
    let server = Running::start(Server::new().listen("tcp:127.0.0.1:0").serve(pushes)).await;
    let mut client = std::net::TcpStream::connect(server.tcp_addr(0)).unwrap();
    client.write_all(b"go\n").unwrap();
    client.set_nonblocking(true).unwrap();
    *slot.lock().unwrap() = Some(client);
    server.until("it is over", |counts| counts.reasons().next().is_some()).await;
    assert_eq!(server.handle().counts().closed(CloseReason::WriteLimit), 0);
    drop(slot);
    server.end().await;
}

#[tokio::test]
async fn a_crowd_of_pushes_that_wait_at_once_reaches_a_peer_that_reads() {
    let pushes = session(Lines::lf().unlimited(), async |mut s: Session<Lines>| {
        let (send, mut pushes) = tokio::sync::mpsc::channel(100);
        for _ in 0..100 {
            send.send(vec![b'x'; 60_000]).await?;
        }
        drop(send);
        loop {
            tokio::select! {
                biased;
                push = pushes.recv() => match push {
                    Some(push) => s.feed(push)?,
                    None => return Ok(()),
                },
                line = s.next() => drop(line?),
            }
        }
    });
    let (server, connector) = on_memory(Server::new(), pushes).await;
    let mut client = connector.connect().await.unwrap();
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard.len(), 100 * 60_001);
    drop(client);
    server.end().await;
}

/// What the kernel takes at once says nothing of the peer. On loopback it would take megabytes, and
/// then nothing more until a good part of them is gone.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn over_tcp_the_kernel_takes_little_more_than_the_peer_reads() {
    const SIZE: usize = 64 << 20;
    let (tell, mut told) = tokio::sync::mpsc::channel(1);
    let leaf = session(Lines::lf().unlimited(), move |mut s: Session<Lines>| {
        let told = tell.try_send(s.stats());
        async move { told.map_or(Ok(()), |()| s.feed(vec![b'x'; SIZE])) }
    });
    let server = Running::start(Server::new().listen("tcp:127.0.0.1:0").serve(leaf)).await;
    let socket = TcpSocket::new_v4().unwrap();
    // What lies at the peer's end is the peer's affair.
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    let mut client = socket.connect(server.tcp_addr(0)).await.unwrap();
    let stats = told.recv().await.unwrap();
    let (mut heard, mut buf) = (0, vec![0; 1 << 20]);
    while heard < SIZE / 2 {
        heard += client.read_exact(&mut buf).await.unwrap();
        settle().await;
        let held = stats.bytes_out() - heard as u64;
        assert!(held < 512 << 10, "after {heard} bytes the kernel holds {held}");
    }
    drop(client);
    server.until("it is gone", |counts| counts.active() == 0).await;
    server.end().await;
}
