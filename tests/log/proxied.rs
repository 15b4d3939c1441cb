//! What the log says of connections behind a proxy.
#![cfg(target_os = "linux")] // where all of 127.0.0.0/8 is this machine

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use ropewalk::{Addr, Bytes, LogLayer, RawBytes, Server, framed, reply_fn};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::{sleep, timeout};

use crate::logged::{Log, log_to};

const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 25\r\n";

/// Sends a header and a word from an address of this machine's own; what is answered.
async fn sent(ip: [u8; 4], to: SocketAddr) -> Vec<u8> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::from(ip), 0).into()).unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    let mut answer = Vec::new();
    // A refused peer may find the connection reset.
    drop(stream.write_all(&[LINE, b"word"].concat()).await);
    drop(stream.shutdown().await);
    drop(timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await.unwrap());
    answer
}

/// How many connections were closed before they began, by their lines.
fn closed(log: &str) -> usize {
    log.lines().filter(|line| line.contains("a connection was closed before it began")).count()
}

/// How many lines this one stands for.
fn suppressed(line: &str) -> Option<usize> {
    line.split("suppressed=").nth(1)?.trim().parse().ok()
}

#[tokio::test]
async fn a_log_shows_the_client_and_warns_ten_times_a_second_of_peers_that_are_not_trusted() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(log.clone()).finish();
    let _here = log_to(subscriber);
    let server = Server::new()
        .listen("proxy+tcp:127.0.0.1:0?trust=127.0.0.1")
        .layer(LogLayer::new())
        .serve(framed(RawBytes, reply_fn(|bytes: Bytes| bytes)));
    let server = server.bind().await.unwrap();
    let handle = server.handle();
    let Addr::Tcp(addr) = handle.addresses()[0] else { panic!("no port") };
    let server = tokio::spawn(server);
    assert_eq!(sent([127, 0, 0, 1], addr).await, b"word");
    let began = Instant::now();
    for _ in 0..50 {
        assert_eq!(sent([127, 0, 0, 9], addr).await, b"");
    }
    handle.drain(Duration::from_secs(20));
    server.await.unwrap().unwrap();
    // The last count comes a second after the last line that was kept back.
    while log.text().lines().filter_map(suppressed).sum::<usize>() + closed(&log.text()) < 50 {
        assert!(began.elapsed() < Duration::from_secs(20), "{}", log.text());
        sleep(Duration::from_millis(10)).await;
    }
    let log = log.text();
    assert_eq!(
        log.lines().filter(|line| line.contains("peer=tcp:192.0.2.7:56324")).count(),
        2,
        "{log}"
    );
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("WARN")).collect();
    let is_count = |line: &&&str| suppressed(line).is_some();
    let each = |line: &str| line.contains("127.0.0.9") && line.contains("trust=");
    assert!(warnings.iter().all(|line| is_count(&line) || each(line)), "{log}");
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap();
    assert!((1..=10 * (seconds + 1)).contains(&warnings.len()), "{log}");
}
