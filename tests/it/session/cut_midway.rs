//! Answers that are cut in their middle, and what comes after the end.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ropewalk::{
    CloseReason, Error, Lines, Reply, Result, Server, Session, framed, memory, service_fn, session,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::sleep;
use tower::ServiceBuilder;
use tower::timeout::TimeoutLayer;

use crate::harness::{Running, on_memory, on_tcp, settle};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn an_answer_over_the_write_limit_arrives_before_an_error() {
    let leaf = session(Lines::lf().unlimited(), async |mut s: Session<Lines>| {
        s.next().await?;
        s.feed(vec![b'x'; 2 << 20])?;
        Err(Error::other("something of the application"))
    });
    let (server, connector) = on_memory(Server::new(), leaf).await;
    let mut client = connector.connect().await.unwrap();
    client.write_all(b"a\n").await.unwrap();
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard.len(), (2 << 20) + 1);
    drop(client);
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_list_that_the_write_limit_cut_does_not_look_complete() {
    for moved in [false, true] {
        let leaf = session(Lines::lf(), move |mut s: Session<Lines>| async move {
            let list = async move {
                loop {
                    s.feed(vec![b'x'; 1023])?;
                }
            };
            if moved {
                // Nobody hears of its error.
                tokio::spawn(async move {
                    sleep(SECOND).await;
                    list.await
                });
                return Ok(());
            }
            list.await
        });
        let (server, connector) = on_memory(Server::new(), leaf).await;
        let mut client = connector.connect().await.unwrap();
        let ended = client.read_to_end(&mut Vec::new()).await;
        assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset, "moved: {moved}");
        let counts = server.end().await;
        assert_eq!(counts.closed(CloseReason::WriteLimit), 1, "{counts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn whole_answers_stay_whole_when_a_layer_drops_the_connection_before_the_next() {
    let (endpoint, connector) = memory::endpoint_with_capacity(1024);
    let leaf = session(Lines::lf(), async |mut s: Session<Lines>| {
        s.send(vec![b'x'; 1023]).await?;
        s.send(vec![b'y'; 1023]).await
    });
    let serve = Server::new().listen(endpoint).layer(TimeoutLayer::new(SECOND)).serve(leaf);
    let server = Running::start(serve).await;
    let mut client = connector.connect().await.unwrap();
    server.until("it is dropped", |counts| counts.closed_in_all() == 1).await;
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard.len(), 1024);
    server.end().await;
}

#[tokio::test]
async fn next_says_once_that_the_connection_was_aborted_and_then_none() {
    let (tell, mut told) = tokio::sync::mpsc::channel(1);
    let leaf = session(Lines::lf(), move |mut s: Session<Lines>| {
        let tell = tell.clone();
        async move {
            let first = s.next().await?;
            s.closing().abort();
            let (second, third) = (s.next().await, s.next().await);
            Ok(tell.send((first, second.is_err(), third.is_ok_and(|end| end.is_none()))).await?)
        }
    });
    let (server, connector) = on_memory(Server::new(), leaf).await;
    let mut client = connector.connect().await.unwrap();
    client.write_all(b"a\nb\n").await.unwrap();
    assert_eq!(told.recv().await.unwrap(), (Some("a".into()), true, true));
    drop(client);
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_was_reached_once_is_forgotten_when_all_is_taken() {
    let leaf = session(Lines::lf().unlimited(), async |mut s: Session<Lines>| {
        s.feed(vec![b'x'; 2000])?;
        assert!(s.feed("one too many").is_err());
        s.flush().await?;
        s.feed(vec![b'y'; 2000])?;
        Err(Error::other("something of the application"))
    })
    .write_limit(1000);
    let (endpoint, connector) = memory::endpoint_with_capacity(100);
    let server = Running::start(Server::new().listen(endpoint).serve(leaf)).await;
    let mut client = connector.connect().await.unwrap();
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard.len(), 4002);
    drop(client);
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn no_call_is_made_behind_an_answer_that_closes_however_slowly_it_is_taken() {
    for ordered in [true, false] {
        let (calls, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let shared = (Arc::clone(&calls), Arc::clone(&go));
        let service = service_fn(move |line: Bytes| {
            let (calls, go) = shared.clone();
            async move {
                calls.fetch_add(1, Ordering::SeqCst);
                if line != "quit" {
                    return Ok(Reply::one(line));
                }
                go.notified().await;
                Ok(Reply::one(Bytes::from(vec![b'x'; 200_000])).then_close())
            }
        });
        // The second frame waits for the service, in the hands of the connection.
        let service = ServiceBuilder::new().concurrency_limit(1).service(service);
        let (endpoint, connector) = memory::endpoint_with_capacity(1024);
        let (leaf, server) =
            (framed(Lines::lf().unlimited(), service), Server::new().listen(endpoint));
        let serve = if ordered {
            server.serve(leaf.concurrent(4))
        } else {
            server.serve(leaf.unordered(4))
        };
        let server = Running::start(serve).await;
        let mut client = connector.connect().await.unwrap();
        client.write_all(b"quit\ndelete\n").await.unwrap();
        settle().await;
        go.notify_one();
        sleep(SECOND).await;
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        assert_eq!(
            (heard.len(), calls.load(Ordering::SeqCst)),
            (200_001, 1),
            "in order: {ordered}"
        );
        drop(client);
        server.end().await;
    }
}

/// Answers with more than is taken at once; `fall` panics a second later, `wait` takes its time.
async fn answer(line: Bytes) -> Result<Vec<u8>> {
    if line != "now" {
        sleep(SECOND).await;
        assert_ne!(line, "fall", "on purpose");
    }
    Ok(vec![b'x'; 5000])
}

/// The bytes of 5001 that a client gets if it reads nothing for a while and the connection is
/// dropped meanwhile, and how its stream ends.
async fn half_taken(
    requests: &str,
    serve: impl FnOnce(ropewalk::Endpoint) -> ropewalk::server::Serve,
) -> (usize, ErrorKind) {
    let (endpoint, connector) = memory::endpoint_with_capacity(1024);
    let server = Running::start(serve(endpoint)).await;
    let mut client = connector.connect().await.unwrap();
    client.write_all(requests.as_bytes()).await.unwrap();
    server.until("it is dropped", |counts| counts.closed_in_all() == 1).await;
    let mut heard = Vec::new();
    let ended = client.read_to_end(&mut heard).await;
    server.end().await;
    (heard.len(), ended.map_or_else(|error| error.kind(), |_| ErrorKind::Other))
}

#[tokio::test(start_paused = true)]
async fn half_an_answer_does_not_look_whole_when_another_call_panics() {
    let leaf = framed(Lines::lf().unlimited(), service_fn(answer)).concurrent(4);
    let (_, ended) =
        half_taken("now\nfall\n", |endpoint| Server::new().listen(endpoint).serve(leaf)).await;
    assert_eq!(ended, ErrorKind::ConnectionReset);
}

#[tokio::test(start_paused = true)]
async fn half_an_answer_does_not_look_whole_when_a_layer_drops_the_connection() {
    let leaf = framed(Lines::lf().unlimited(), service_fn(answer)).concurrent(4);
    let (_, ended) = half_taken("now\nwait\n", |endpoint| {
        Server::new().listen(endpoint).layer(TimeoutLayer::new(SECOND / 2)).serve(leaf)
    })
    .await;
    assert_eq!(ended, ErrorKind::ConnectionReset);
}

/// Of many raw bytes the kernel takes a part at once, before anything waits.
#[tokio::test]
async fn raw_bytes_that_were_written_in_part_do_not_look_whole_when_the_session_panics() {
    let leaf = session(Lines::lf(), async |mut s: Session<Lines>| -> Result {
        s.next().await?;
        s.feed_raw(vec![b'x'; 8 << 20])?;
        panic!("as told")
    });
    let server = on_tcp(Server::new(), leaf).await;
    let mut client = server.connect().await;
    client.write_all(b"a\n").await.unwrap();
    server.until("it has ended", |counts| counts.closed_in_all() == 1).await;
    let ended = client.read_to_end(&mut Vec::new()).await;
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(server.end().await.closed(CloseReason::Panic), 1);
}

#[tokio::test(start_paused = true)]
async fn a_whole_answer_ends_as_usual_when_a_layer_drops_the_connection() {
    let leaf = framed(Lines::lf().unlimited(), service_fn(answer)).concurrent(4);
    let (endpoint, connector) = memory::endpoint_with_capacity(1024);
    let server = Running::start(
        Server::new().listen(endpoint).layer(TimeoutLayer::new(SECOND * 2)).serve(leaf),
    )
    .await;
    let mut client = connector.connect().await.unwrap();
    client.write_all(b"now\n").await.unwrap();
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard.len(), 5001);
    drop(client);
    server.end().await;
}

#[tokio::test]
async fn nothing_that_was_read_is_handed_out_once_the_server_has_stopped() {
    for how in ["frames", "raw", "drive"] {
        let (go, seen) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let shared = (Arc::clone(&go), Arc::clone(&seen));
        let leaf = session(Lines::lf(), move |mut s: Session<Lines>| {
            let (go, seen) = shared.clone();
            async move {
                let count = move || seen.fetch_add(1, Ordering::SeqCst);
                // Elsewhere, the server can't drop it.
                tokio::spawn(async move {
                    s.next().await?;
                    go.notified().await;
                    match how {
                        "frames" => {
                            while s.next().await?.is_some() {
                                count();
                            }
                        }
                        "raw" => {
                            while s.raw(1).await.is_ok() {
                                count();
                            }
                        }
                        _ => {
                            let served = service_fn(move |line: Bytes| {
                                count();
                                async move { Ok(line) }
                            });
                            s.drive(served).await?;
                        }
                    }
                    Ok::<(), Error>(())
                });
                Ok(())
            }
        });
        let (server, connector) = on_memory(Server::new(), leaf).await;
        let mut client = connector.connect().await.unwrap();
        client.write_all(b"1\n2\n3\n4\n5\n").await.unwrap();
        settle().await;
        server.handle().stop();
        let counts = server.over().await;
        assert_eq!(counts.closed(CloseReason::Aborted), 1);
        go.notify_one();
        settle().await;
        assert_eq!(seen.load(Ordering::SeqCst), 0, "{how}");
    }
}
