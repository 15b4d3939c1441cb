//! How many connections a server admits by default when it has few descriptors. The limit is that
//! of the whole process.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use bytes::Bytes;
use ropewalk::{Handle, Lines, Server, framed, reply_fn};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PLAIN: &str = "tcp:127.0.0.1:0";
const PROXIED: &str = "proxy+tcp:127.0.0.1:0?trust=127.0.0.1";

/// A server that accepts on a plain endpoint, and on this one.
async fn server(prepare: impl FnOnce(Server) -> Server) -> Handle {
    let server = prepare(Server::new().listen(PLAIN))
        .serve(framed(Lines::lf(), reply_fn(|line: Bytes| line)));
    let server = server.bind().await.unwrap();
    let handle = server.handle();
    tokio::spawn(server);
    let ropewalk::Addr::Tcp(address) = handle.addresses()[0].clone() else {
        unreachable!("it is TCP")
    };
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"x\n").await.unwrap();
    client.read_exact(&mut [0; 2]).await.unwrap();
    handle
}

#[tokio::test]
async fn an_added_endpoint_with_preambles_leaves_them_the_descriptors_that_one_from_the_start_does()
{
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(1000), ..limit }).unwrap();
    let from_the_start = server(|server| server.listen(PROXIED)).await.max_connections();
    let added = server(|server| server).await;
    let without = added.max_connections();
    added.add_endpoint("main", PLAIN).await.unwrap();
    assert_eq!(added.max_connections(), without, "a plain endpoint needs no descriptors");
    for _ in 0..2 {
        added.add_endpoint("main", PROXIED).await.unwrap();
        assert_eq!(added.max_connections(), from_the_start);
    }
    assert_eq!(without - from_the_start, added.max_preambles());
    let told = server(|server| server.max_connections(700)).await;
    told.add_endpoint("main", PROXIED).await.unwrap();
    assert_eq!(told.max_connections(), 700, "what the program says counts");
    let told = server(|server| server).await;
    told.set_max_connections(700);
    told.add_endpoint("main", PROXIED).await.unwrap();
    assert_eq!(told.max_connections(), 700);
}
