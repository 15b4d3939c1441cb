//! A connection that is broken off does not look finished.

use std::io::ErrorKind;
use std::time::Duration;

use ropewalk::{Addr, CloseReason, Lines, Result, Server, Session, session};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Half an answer, and then nothing.
async fn half(mut s: Session<Lines>) -> Result {
    s.send("half of an answer").await?;
    std::future::pending().await
}

/// Serves over TCP, lets `end` break the server off, and gives what the client had and how it
/// ended.
async fn broken_off(end: impl FnOnce(&ropewalk::Handle)) -> (String, std::io::Result<usize>, u64) {
    let server = Server::new()
        .listen("tcp:127.0.0.1:0")
        .serve(session(Lines::lf(), half))
        .bind()
        .await
        .unwrap();
    let handle = server.handle();
    let server = tokio::spawn(server);
    let [Addr::Tcp(addr)] = handle.addresses() else { panic!("one TCP address") };
    let mut client = TcpStream::connect(addr).await.unwrap();
    let mut got = [0; 18];
    client.read_exact(&mut got).await.unwrap();
    end(&handle);
    let ended = client.read(&mut [0; 1]).await;
    server.await.unwrap().unwrap();
    (
        String::from_utf8_lossy(&got).into_owned(),
        ended,
        handle.counts().closed(CloseReason::Aborted),
    )
}

#[tokio::test]
async fn a_connection_that_is_stopped_ends_in_a_reset() {
    let (got, ended, aborted) = broken_off(|handle| handle.stop()).await;
    assert_eq!((got.as_str(), aborted), ("half of an answer\n", 1));
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_connection_that_outlives_the_drain_ends_in_a_reset() {
    let (got, ended, aborted) = broken_off(|handle| handle.drain(Duration::from_millis(1))).await;
    assert_eq!((got.as_str(), aborted), ("half of an answer\n", 1));
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_function_runs_to_its_end_after_an_abort() {
    let (tell, mut told) = tokio::sync::mpsc::channel(1);
    let leaf = session(Lines::lf(), move |s: Session<Lines>| {
        let tell = tell.clone();
        async move {
            s.abort();
            tokio::task::yield_now().await;
            Ok(tell.send("after").await?)
        }
    });
    let (endpoint, connector) = ropewalk::memory::endpoint();
    let server = tokio::spawn(Server::new().listen(endpoint).serve(leaf));
    let mut client = connector.connect().await.unwrap();
    assert_eq!(client.read(&mut [0; 1]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(told.recv().await, Some("after"));
    server.abort();
}
