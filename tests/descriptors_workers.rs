//! An endpoint that is added when descriptors are short is accepted by all workers or is an error. The
//! limit is that of the whole process.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::time::Duration;

use bytes::Bytes;
use ropewalk::{Addr, Handle, Lines, Server, framed, reply_fn};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(20);

async fn is_served(handle: &Handle, number: usize) {
    let Addr::Tcp(address) = *handle.endpoints()[number].address() else {
        unreachable!("it is TCP")
    };
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"x\n").await.unwrap();
    timeout(LONG, client.read_exact(&mut [0; 2])).await.expect("it is accepted").unwrap();
}

/// The lowest number that is free.
fn next_descriptor() -> u64 {
    File::open("/dev/null").unwrap().as_raw_fd().try_into().unwrap()
}

#[tokio::test]
async fn an_endpoint_that_is_added_with_too_few_descriptors_is_an_error_and_leaves_none_open() {
    let server = Server::new()
        .workers(4)
        .listen("tcp:127.0.0.1:0")
        .serve(framed(Lines::lf(), reply_fn(|line: Bytes| line)));
    let server = server.bind().await.unwrap();
    let handle = server.handle();
    let server = tokio::spawn(server);
    is_served(&handle, 0).await;
    let limit = getrlimit(Resource::Nofile);
    let before = next_descriptor();
    let mut more = 0;
    let number = loop {
        setrlimit(Resource::Nofile, Rlimit { current: Some(before + more), ..limit }).unwrap();
        let added = handle.add_endpoint("main", "tcp:127.0.0.1:0").await;
        setrlimit(Resource::Nofile, limit).unwrap();
        match added {
            Ok(number) => break number,
            Err(_) => assert_eq!(next_descriptor(), before, "with {more}"),
        }
        more += 1;
    };
    assert!(more > 0);
    // The kernel distributes them among the sockets of all workers.
    for _ in 0..64 {
        is_served(&handle, number).await;
    }
    handle.stop();
    server.await.unwrap().unwrap();
}
