//! The endpoint of a process that has no descriptor left. The limit is that of the whole process.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs::File;
use std::time::Duration;

use ropewalk::{Addr, Bytes, Lines, Server, framed, memory, reply_fn};
use ropewalk_admin::Admin;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

const READY: &[u8] = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n";

async fn is_answered(stream: &mut TcpStream) -> bool {
    let mut head = [0; 15];
    let read = timeout(Duration::from_secs(20), stream.read_exact(&mut head)).await;
    read.is_ok_and(|read| read.is_ok()) && head == *b"HTTP/1.1 200 OK"
}

#[tokio::test]
async fn without_descriptors_an_open_connection_is_answered_and_a_new_one_when_one_is_free() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(200), ..limit }).unwrap();
    let (endpoint, _connector) = memory::endpoint();
    // So nothing is left for the endpoint.
    let server = Server::new().max_connections(10_000).listen(endpoint);
    let server = server.serve(framed(Lines::any(), reply_fn(|line: Bytes| line)));
    let server = server.bind().await.unwrap();
    let admin = Admin::new().listen("tcp:127.0.0.1:0").bind(&server.handle()).await.unwrap();
    let handle = admin.handle();
    tokio::spawn(async { tokio::join!(server, admin) });
    let Addr::Tcp(address) = handle.addresses()[0].clone() else { panic!("it is a TCP address") };

    let mut page = TcpStream::connect(address).await.unwrap();
    page.write_all(READY).await.unwrap();
    assert!(is_answered(&mut page).await);
    let mut rest = vec![0; 4096];
    assert!(page.read(&mut rest).await.unwrap() > 0);
    // Its descriptor is there before there is none left.
    let late = TcpSocket::new_v4().unwrap();
    let mut files = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        files.push(file);
    }
    let mut late = late.connect(address).await.unwrap();
    late.write_all(READY).await.unwrap();
    while handle.endpoints()[0].accept_errors() == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    page.write_all(READY).await.unwrap();
    assert!(is_answered(&mut page).await, "the page goes on");
    assert_eq!(handle.counts().accepted(), 1);
    files.pop();
    assert!(is_answered(&mut late).await, "and the new one comes to its turn");
}
