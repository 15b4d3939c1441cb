//! STARTTLS: a session that becomes encrypted, and what came before it in plaintext.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ropewalk::{
    Bytes, CloseReason, ConnectionService, Error, Lines, Result, Session, SessionError, TlsConfig,
    session,
};
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::encrypted::{Ca, Client, Folder, PATIENCE, Running, localhost, soon, until};

/// The lines and errors that a server has seen.
type Seen = Arc<Mutex<Vec<String>>>;

/// Answers lines with where it has them from; `STARTTLS` encrypts.
async fn lines(mut s: Session<Lines>, tls: TlsConfig, seen: Seen) -> Result {
    while let Some(line) = s.next().await? {
        let line = String::from_utf8_lossy(&line).into_owned();
        seen.lock().unwrap().push(line.clone());
        if line == "STARTTLS" {
            s.feed("go ahead")?;
            s.upgrade_tls(&tls).await?;
        } else {
            let from = s.tls().map_or_else(|| "plain".to_owned(), |tls| tls.version().to_string());
            s.feed(format!("{from} {line}"))?;
        }
    }
    Ok(())
}

fn service(tls: TlsConfig) -> (impl ConnectionService, Seen) {
    let seen = Seen::default();
    let notes = Arc::clone(&seen);
    let service = session(Lines::crlf(), move |s: Session<Lines>| {
        let (tls, seen) = (tls.clone(), Arc::clone(&notes));
        async move {
            let result = lines(s, tls, Arc::clone(&seen)).await;
            if let Err(error) = &result {
                seen.lock().unwrap().push(format!("error: {error}"));
            }
            result
        }
    });
    (service, seen)
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufReader<S>,
    text: &str,
    answer: &str,
) {
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let mut line = String::new();
    soon(stream.read_line(&mut line)).await.unwrap();
    assert_eq!(line, answer);
}

async fn starts<S: AsyncRead + AsyncWrite + Unpin>(client: &Client, stream: S, version: &str) {
    let mut plain = BufReader::new(stream);
    ask(&mut plain, "one\r\n", "plain one\r\n").await;
    ask(&mut plain, "STARTTLS\r\n", "go ahead\r\n").await;
    assert!(plain.buffer().is_empty());
    let mut encrypted = BufReader::new(client.shake(plain.into_inner()).await.unwrap());
    ask(&mut encrypted, "two\r\n", &format!("{version} two\r\n")).await;
    ask(&mut encrypted, "three\r\n", &format!("{version} three\r\n")).await;
    encrypted.shutdown().await.unwrap();
    assert_eq!(soon(encrypted.read(&mut [0])).await.unwrap(), 0);
}

#[tokio::test]
async fn a_session_is_encrypted_from_one_frame_to_the_next() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let (service, seen) = service(localhost(&ca, &folder));
    let running = Running::plain(service).await;
    for (version, name) in [(&TLS12, "TLS 1.2"), (&TLS13, "TLS 1.3")] {
        let client = Client::new(&ca, "localhost").version(version);
        starts(&client, TcpStream::connect(running.addr).await.unwrap(), name).await;
        starts(&client, running.memory.connect().await.unwrap(), name).await;
    }
    assert!(!seen.lock().unwrap().iter().any(|line| line.starts_with("error")), "{seen:?}");
    let handle = running.handle.clone();
    running.end().await;
    assert_eq!(handle.counts().closed(CloseReason::Done), 4);
    assert_eq!(handle.preambles().begun(), 0);
}

#[tokio::test]
async fn plaintext_behind_the_request_refuses_the_upgrade_and_is_never_seen() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let (service, seen) = service(localhost(&ca, &folder));
    let running = Running::plain(service).await;
    // A whole command, a part of one, and the first bytes of a handshake.
    for behind in ["RSET\r\n", "R", "\r", "\x16\x03\x01"] {
        let mut client = TcpStream::connect(running.addr).await.unwrap();
        client.write_all(format!("STARTTLS\r\n{behind}").as_bytes()).await.unwrap();
        let mut answer = String::new();
        soon(client.read_to_string(&mut answer)).await.unwrap();
        assert_eq!(answer, "go ahead\r\n", "{behind:?}");
        let problem = format!("error: {}", SessionError::PlaintextBehind { bytes: behind.len() });
        assert_eq!(std::mem::take(&mut *seen.lock().unwrap()), ["STARTTLS".to_owned(), problem]);
    }
    let handle = running.handle.clone();
    running.end().await;
    assert_eq!(handle.counts().closed(CloseReason::CodecError), 4);
}

#[tokio::test]
async fn plaintext_still_in_the_kernel_is_taken_for_the_handshake_and_fails_it() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let (service, seen) = service(localhost(&ca, &folder));
    let running = Running::plain(service).await;
    let mut client = BufReader::new(TcpStream::connect(running.addr).await.unwrap());
    ask(&mut client, "STARTTLS\r\n", "go ahead\r\n").await;
    client.write_all(b"RSET\r\nNOOP\r\n").await.unwrap();
    let mut alert = Vec::new();
    soon(client.read_to_end(&mut alert)).await.unwrap();
    // An alert record, and nothing else.
    assert_eq!((alert[0], alert.len()), (21, 7), "{alert:?}");
    // The end of a refused handshake waits for the client's.
    drop(client);
    until("the upgrade has failed", || seen.lock().unwrap().len() == 2).await;
    let seen = seen.lock().unwrap();
    assert!(seen[1].starts_with("error: ") && !seen[1].contains("RSET"), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn the_handshake_has_a_total_deadline() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let (service, seen) = service(localhost(&ca, &folder));
    let running = Running::plain(service).await;
    let mut client = BufReader::new(running.memory.connect().await.unwrap());
    ask(&mut client, "STARTTLS\r\n", "go ahead\r\n").await;
    let began = Instant::now();
    // A record of 512 bytes, one byte a second.
    client.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
    while client.write_all(&[0]).await.is_ok() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(began.elapsed() < PATIENCE);
    }
    assert!(began.elapsed() >= Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(seen.lock().unwrap()[1], format!("error: {}", SessionError::HandshakeTimedOut));
    assert_eq!(running.handle.counts().closed(CloseReason::Timeout), 1);
}

/// Runs one session with `f`, against a memory client that `talk`s.
async fn with<F, Fut>(f: F) -> (Running, tokio::sync::mpsc::UnboundedReceiver<String>)
where
    F: Fn(Session<Lines>, tokio::sync::mpsc::UnboundedSender<String>) -> Fut
        + Send
        + Sync
        + 'static,
    Fut: Future<Output = Result> + Send + 'static,
{
    let (notes, said) = tokio::sync::mpsc::unbounded_channel();
    (Running::plain(session(Lines::crlf(), move |s| f(s, notes.clone()))).await, said)
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_dropped_before_its_handshake_leaves_no_session_in_plaintext() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let tls = localhost(&ca, &folder);
    let (running, mut said) = with(move |mut s, said| {
        let tls = tls.clone();
        async move {
            // More than the peer takes.
            s.feed_raw(vec![b'.'; 900_000])?;
            s.feed("go ahead")?;
            assert!(timeout(Duration::from_secs(1), s.upgrade_tls(&tls)).await.is_err());
            said.send(format!("{:?}", s.next().await)).unwrap();
            said.send(format!("{:?}", s.upgrade_tls(&tls).await.is_err())).unwrap();
            Ok(())
        }
    })
    .await;
    let mut client = running.memory.connect().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    client.write_all(b"PLAIN\r\n").await.unwrap();
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).await.unwrap();
    assert!(heard.ends_with(b".go ahead\r\n"));
    assert_eq!(said.recv().await.unwrap(), "Ok(None)");
    assert_eq!(said.recv().await.unwrap(), "true");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_upgrade_leaves_a_session_that_can_only_end() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let tls = localhost(&ca, &folder);
    let (running, mut said) = with(move |mut s, said| {
        let tls = tls.clone();
        async move {
            assert!(timeout(Duration::from_secs(1), s.upgrade_tls(&tls)).await.is_err());
            said.send(format!("{:?}", s.next().await)).unwrap();
            s.feed("lost")?;
            said.send(format!("{:?}", s.flush().await.is_err())).unwrap();
            said.send(format!("{:?}", s.upgrade_tls(&tls).await.is_err())).unwrap();
            Ok(())
        }
    })
    .await;
    let mut client = running.memory.connect().await.unwrap();
    let mut rest = Vec::new();
    drop(client.read_to_end(&mut rest).await);
    assert!(rest.is_empty());
    assert_eq!(
        [said.recv().await, said.recv().await, said.recv().await].map(Option::unwrap),
        ["Ok(None)", "true", "true"]
    );
    running.end().await;
}

#[tokio::test]
async fn a_second_upgrade_is_refused_and_the_session_goes_on() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let tls = localhost(&ca, &folder);
    let (running, mut said) = with(move |mut s, said| {
        let tls = tls.clone();
        async move {
            s.upgrade_tls(&tls).await?;
            let again = s.upgrade_tls(&tls).await.unwrap_err();
            said.send(format!("{:?}", again.downcast_ref::<SessionError>())).unwrap();
            s.feed("still here")
        }
    })
    .await;
    let mut client = Client::new(&ca, "localhost").tcp(running.addr).await.unwrap();
    let mut text = String::new();
    soon(client.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "still here\r\n");
    assert_eq!(said.recv().await.unwrap(), "Some(AlreadyEncrypted)");
}

#[tokio::test]
async fn the_middle_of_a_frame_or_of_raw_bytes_is_no_place_for_it() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let tls = localhost(&ca, &folder);
    let (running, mut said) = with(move |mut s, said| {
        let tls = tls.clone();
        async move {
            let first: Option<Bytes> = s.next().await?;
            if first.as_deref() == Some(b"raw") {
                // Dropped early: five bytes are still to come.
                drop(s.raw_chunks(5)?);
            } else {
                // Half a line is read, and waited for no longer.
                assert!(timeout(Duration::from_millis(50), s.next()).await.is_err());
            }
            let refused = s.upgrade_tls(&tls).await.unwrap_err();
            said.send(format!("{:?}", refused.downcast_ref::<SessionError>())).unwrap();
            Err::<(), Error>(refused)
        }
    })
    .await;
    for (sent, bytes) in [("raw\r\n", 0), ("line\r\nhal", 3)] {
        let mut client = running.memory.connect().await.unwrap();
        client.write_all(sent.as_bytes()).await.unwrap();
        assert_eq!(
            said.recv().await.unwrap(),
            format!("Some(PlaintextBehind {{ bytes: {bytes} }})")
        );
        drop(client);
    }
}

#[tokio::test]
async fn answers_are_written_first_however_long_they_are() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let tls = localhost(&ca, &folder);
    let (running, _said) = with(move |mut s, _| {
        let tls = tls.clone();
        async move {
            s.feed_raw(vec![b'.'; 900_000])?;
            s.upgrade_tls(&tls).await?;
            s.feed("encrypted")
        }
    })
    .await;
    let mut client = TcpStream::connect(running.addr).await.unwrap();
    let mut dots = vec![0; 900_000];
    soon(client.read_exact(&mut dots)).await.unwrap();
    assert!(dots.iter().all(|&byte| byte == b'.'));
    let mut client = Client::new(&ca, "localhost").shake(client).await.unwrap();
    let mut text = String::new();
    soon(client.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "encrypted\r\n");
}

#[tokio::test]
async fn a_connection_that_is_aborted_in_the_middle_of_an_upgrade_ends_in_a_reset() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let (service, _seen) = service(localhost(&ca, &folder));
    let running = Running::plain(service).await;
    let mut client = BufReader::new(TcpStream::connect(running.addr).await.unwrap());
    ask(&mut client, "STARTTLS\r\n", "go ahead\r\n").await;
    running.handle.stop();
    let end = soon(client.read(&mut [0])).await;
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(running.handle.counts().closed(CloseReason::Aborted), 1);
}

#[tokio::test]
async fn an_abort_ends_an_upgrade_also_in_a_session_that_lives_elsewhere() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let tls = localhost(&ca, &folder);
    let (running, mut said) = with(move |mut s, said| {
        let tls = tls.clone();
        async move {
            tokio::spawn(async move {
                said.send("begun".to_owned()).unwrap();
                let result = s.upgrade_tls(&tls).await.unwrap_err();
                said.send(result.to_string()).unwrap();
            });
            Ok(())
        }
    })
    .await;
    let mut client = running.memory.connect().await.unwrap();
    assert_eq!(said.recv().await.unwrap(), "begun");
    running.handle.stop();
    assert_eq!(soon(said.recv()).await.unwrap(), SessionError::Aborted.to_string());
    assert!(matches!(
        client.read_u8().await.map_err(|error| error.kind()),
        Err(io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof)
    ));
}
