//! The leaf that hands connections on, in memory; `examples_port_forward.rs` has it on sockets.

use std::time::Duration;

use ropewalk::client::forward;
use ropewalk::connection::Stream;
use ropewalk::proxy::Version;
use ropewalk::{CloseReason, Remote, connect};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep};

use crate::called::{End, LONG, ends, nobody, serve, settle, soon};

async fn client(connector: &ropewalk::memory::Connector) -> End {
    End(Stream::boxed(connector.connect().await.unwrap()))
}

#[tokio::test(start_paused = true)]
async fn each_way_ends_for_itself() {
    let (to, mut ends) = ends(16).await;
    let (front, server) = serve(forward(to).unwrap());
    let mut client = client(&front).await;
    client.say("hello").await;
    let mut end = ends.accept().await;
    end.expect("hello").await;
    client.0.shutdown().await.unwrap();
    end.expect_end().await;
    end.say("still here").await;
    client.expect("still here").await;
    end.0.shutdown().await.unwrap();
    client.expect_end().await;
    settle().await;
    assert_eq!(server.counts().closed(CloseReason::Done), 1);
}

#[tokio::test(start_paused = true)]
async fn an_error_on_one_side_ends_the_other() {
    let (to, mut ends) = ends(16).await;
    let (front, server) = serve(forward(to).unwrap());
    let mut client = client(&front).await;
    client.say("hello").await;
    let mut end = ends.accept().await;
    end.0.abort();
    drop(end);
    assert!(soon(tokio::io::AsyncReadExt::read(&mut client.0, &mut [0])).await.is_err());
    settle().await;
    assert_eq!(server.counts().closed(CloseReason::PeerReset), 1);
}

#[tokio::test(start_paused = true)]
async fn where_nothing_moves_both_sides_are_broken_and_where_something_does_they_are_not() {
    let (to, mut ends) = ends(16).await;
    let (front, server) = serve(forward(to).unwrap().idle(Duration::from_secs(10)));
    let mut client = client(&front).await;
    let mut end = ends.accept().await;
    for _ in 0..20 {
        sleep(Duration::from_secs(5)).await;
        client.say("x").await;
        end.expect("x").await;
    }
    let began = Instant::now();
    assert!(soon(tokio::io::AsyncReadExt::read(&mut client.0, &mut [0])).await.is_err());
    assert!((10..=20).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    settle().await;
    assert_eq!(server.counts().closed(CloseReason::IdleTimeout), 1);
}

#[tokio::test(start_paused = true)]
async fn without_a_server_the_client_is_closed_within_the_time_to_connect() {
    let (front, _server) = serve(forward(nobody()).unwrap());
    client(&front).await.expect_end().await;
    // One that is full, and takes nobody.
    let (_endpoint, full) = ropewalk::memory::endpoint();
    let _waiting: Vec<_> = (0..1024).map(|_| full.try_connect().unwrap()).collect();
    let (front, _server) = serve(forward(full).unwrap().connect_within(Duration::from_secs(3)));
    let began = Instant::now();
    client(&front).await.expect_end().await;
    assert_eq!(began.elapsed(), Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn a_header_comes_first_and_a_drain_waits_for_the_end_up_to_its_deadline() {
    let (to, mut ends) = ends(1024).await;
    let (front, server) = serve(forward(Remote::from(to).proxied(Version::V1)).unwrap());
    let connection = connect(&front).await.unwrap();
    let mut end = ends.accept().await;
    end.expect("PROXY UNKNOWN\r\n").await;
    server.drain(Duration::from_secs(5));
    let began = Instant::now();
    drop(connection);
    end.expect_end().await;
    assert!(began.elapsed() < Duration::from_secs(5));
    drop(end);
    tokio::time::timeout(LONG, async {
        while server.counts().active() > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
}
