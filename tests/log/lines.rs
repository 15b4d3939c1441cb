//! What the server itself writes to the log.

use bytes::Bytes;
use ropewalk::{Error, Lines, Server, framed, memory, service_fn};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::logged::{Log, log_to};

#[tokio::test]
async fn bytes_of_a_peer_in_errors_and_panics_are_escaped_and_cut() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    let _guard = log_to(subscriber);

    let (endpoint, connector) = memory::endpoint();
    let service = service_fn(async |line: Bytes| {
        let text = String::from_utf8_lossy(&line).into_owned();
        if text.starts_with("panic") {
            panic!("no such line: {text}");
        }
        Err::<Bytes, _>(Error::other(format!("no such line: {text}")))
    });
    let server = Server::new().listen(endpoint).serve(framed(Lines::crlf(), service));
    let handle = server.handle();
    let server = tokio::spawn(server);
    for how in ["fail", "panic"] {
        let mut client = connector.connect().await.unwrap();
        let line =
            format!("{how}\n2026-01-01 INFO fake: root logged in \x1b[2J{}\r\n", "x".repeat(5000));
        client.write_all(line.as_bytes()).await.unwrap();
        drop(client.read_to_end(&mut Vec::new()).await);
    }
    handle.stop();
    server.await.unwrap().unwrap();

    let log = log.text();
    let quoting: Vec<&str> = log.lines().filter(|line| line.contains("no such line")).collect();
    assert_eq!(quoting.len(), 2, "{log}");
    assert!(quoting.iter().all(|line| line.len() < 500 && line.contains(r"\x1b[2J")), "{log}");
    assert!(!log.lines().any(|line| line.starts_with("2026-01-01 INFO fake")), "{log}");
}
