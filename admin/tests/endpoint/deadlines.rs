//! Clients that are slow, and too many of them. On paused time and in memory.

use std::time::Duration;

use ropewalk::Handle;
use ropewalk::memory::{self, Connector};
use ropewalk_admin::Admin;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use crate::common::{TOKEN, Watched, bearer, exchange, token_file};

async fn admin() -> (Handle, Connector) {
    let watched = Watched::start().await;
    let (endpoint, connector) = memory::endpoint();
    let (_dir, file) = token_file();
    let admin = Admin::new().listen(endpoint).token_file(file).bind(&watched.handle).await.unwrap();
    let handle = admin.handle();
    tokio::spawn(admin);
    (handle, connector)
}

const GET: &str = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_head_that_is_not_complete_in_ten_seconds_ends_the_connection() {
    let (_admin, connector) = admin().await;
    for begun in ["", "GET /healthz HTTP/1.1\r\nHost: loc", GET] {
        let mut stream = connector.connect().await.unwrap();
        let began = Instant::now();
        stream.write_all(begun.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        // It may be a reset: what counts is when.
        drop(stream.read_to_end(&mut rest).await);
        let took = began.elapsed();
        assert!(
            took >= Duration::from_secs(10) && took < Duration::from_secs(11),
            "{begun:?}: {took:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_not_complete_in_five_seconds_is_refused() {
    let (_admin, connector) = admin().await;
    let began = Instant::now();
    let token = bearer(TOKEN);
    let request = format!(
        "POST /limits/max_connections HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 11\r\n{token}\r\n\r\n{{"
    );
    let answer = exchange(connector.connect().await.unwrap(), &request).await;
    assert_eq!((answer.status, began.elapsed().as_secs()), (408, 5));
}

#[tokio::test(start_paused = true)]
async fn a_head_of_more_than_16_kib_is_refused() {
    let (_admin, connector) = admin().await;
    let head = |bytes: usize| {
        format!(
            "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: {}\r\n\r\n",
            "x".repeat(bytes)
        )
    };
    assert_eq!(exchange(connector.connect().await.unwrap(), &head(15_000)).await.status, 200);
    let mut stream = connector.connect().await.unwrap();
    let (mut received, long) = (Vec::new(), head(17_000));
    // It ends while bytes of the head are on their way, so it may be a reset.
    drop(stream.write_all(long.as_bytes()).await);
    drop(stream.read_to_end(&mut received).await);
    assert!(!received.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test(start_paused = true)]
async fn a_connection_ends_after_a_minute_however_busy_it_is() {
    let (_admin, connector) = admin().await;
    let mut stream = connector.connect().await.unwrap();
    let began = Instant::now();
    let mut bytes = [0; 4096];
    loop {
        if stream.write_all(GET.as_bytes()).await.is_err()
            || stream.read(&mut bytes).await.unwrap_or_default() == 0
        {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(60) && took < Duration::from_secs(62), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_loses_its_place_after_65_seconds() {
    let (admin, connector) = admin().await;
    let mut stream = connector.connect().await.unwrap();
    let began = Instant::now();
    // More answers than the pipe holds.
    let writing = async { while stream.write_all(GET.as_bytes()).await.is_ok() {} };
    assert!(timeout(Duration::from_secs(300), writing).await.is_ok());
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(60) && took < Duration::from_secs(67), "{took:?}");
    while admin.counts().active() > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_sixty_fifth_connection_waits_for_a_place() {
    let (_admin, connector) = admin().await;
    let mut streams = Vec::new();
    for _ in 0..64 {
        let mut stream = connector.connect().await.unwrap();
        stream.write_all(GET.as_bytes()).await.unwrap();
        stream.read_exact(&mut [0; 15]).await.unwrap();
        streams.push(stream);
    }
    let mut one_more = connector.connect().await.unwrap();
    one_more.write_all(GET.as_bytes()).await.unwrap();
    let waited = timeout(Duration::from_secs(5), one_more.read_exact(&mut [0; 15])).await;
    assert!(waited.is_err(), "it was answered while 64 were open");
    streams.pop();
    timeout(Duration::from_secs(1), one_more.read_exact(&mut [0; 15])).await.unwrap().unwrap();
}
