//! Defaults of `docs/src/limits.md`, as a running server has them.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use ropewalk::memory::{self, MemoryStream};
use ropewalk::{
    CloseReason, ConnectionService, LengthPrefixed, Lines, Netstring, Server, Session,
    SessionError, framed, reply_fn, session,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

use crate::harness::{self, Running, ask, on_memory, on_tcp, shouter};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const SECOND: Duration = Duration::from_secs(1);

/// Serves one connection, and returns what comes back for this.
async fn heard(leaf: impl ConnectionService, input: &[u8]) -> Vec<u8> {
    let (server, connector) = on_memory(Server::new(), leaf).await;
    let (mut read, mut write) = tokio::io::split(connector.connect().await.unwrap());
    let mut heard = Vec::new();
    // One that is refused ends both.
    let talk = async {
        drop(write.write_all(input).await);
        drop(write.shutdown().await);
    };
    let (_, _) = tokio::join!(talk, read.read_to_end(&mut heard));
    drop((read, write));
    server.until("it is gone", |counts| counts.active() == 0).await;
    server.end().await;
    heard
}

#[tokio::test]
async fn a_line_has_16_kib_and_a_frame_64() {
    for over in [0, 1] {
        let line = [vec![b'x'; 16 * KIB + over], b"\n".to_vec()].concat();
        let came_back =
            heard(framed(Lines::lf(), reply_fn(|line: Bytes| line)), &line).await == line;
        assert_eq!(came_back, over == 0, "a line");
        let len = 64 * KIB + over;
        let netstring = [format!("{len}:").as_bytes(), &vec![b'x'; len], b","].concat();
        let came_back = heard(framed(Netstring::new(), reply_fn(|frame: Bytes| frame)), &netstring)
            .await
            == netstring;
        assert_eq!(came_back, over == 0, "a netstring");
        let prefixed = [&u32::try_from(len).unwrap().to_be_bytes()[..], &vec![b'x'; len]].concat();
        let came_back =
            heard(framed(LengthPrefixed::u32(), reply_fn(|frame: Bytes| frame)), &prefixed).await
                == prefixed;
        assert_eq!(came_back, over == 0, "a frame behind its length");
    }
}

/// Serves one session whose function says what it finds.
async fn found<Fut>(
    f: impl Fn(Session<Lines>) -> Fut + Send + Sync + 'static,
    input: &[u8],
) -> String
where
    Fut: Future<Output = (Session<Lines>, String)> + Send + 'static,
{
    let f = std::sync::Arc::new(f);
    let leaf = session(Lines::lf(), move |s: Session<Lines>| {
        let found = f(s);
        async move {
            let (mut s, found) = found.await;
            s.feed(found)
        }
    });
    String::from_utf8(heard(leaf, input).await).unwrap()
}

#[tokio::test]
async fn a_session_takes_1_mib_of_raw_bytes_at_once() {
    let raw = async |mut s: Session<Lines>| {
        let over = match s.raw(MIB as u64 + 1).await.map_err(|error| error.to_string()) {
            Ok(_) => "taken".to_owned(),
            Err(error) => error,
        };
        let taken = s.raw(MIB as u64).await.map(|bytes| bytes.len());
        (s, format!("{taken:?}; {over}"))
    };
    let found = found(raw, &vec![b'x'; 2 * MIB]).await;
    assert!(found.starts_with("Ok(1048576); ") && !found.contains("taken"), "{found}");
}

#[tokio::test(start_paused = true)]
async fn a_session_queues_1_mib_of_answers() {
    let leaf = session(Lines::lf(), async |mut s: Session<Lines>| {
        let mut queued = 0;
        let refusal = loop {
            match s.feed_raw(vec![b'x'; KIB]) {
                Ok(()) => queued += KIB,
                Err(error) => break error,
            }
        };
        let max = match refusal.downcast_ref::<SessionError>() {
            Some(SessionError::WriteLimit { max }) => *max,
            other => panic!("{other:?}"),
        };
        // Bytes that the transport has accepted do not wait.
        let waiting = queued - usize::try_from(s.stats().bytes_out()).unwrap();
        assert_eq!((waiting, max), (MIB, MIB));
        Ok(())
    });
    let (server, connector) = on_memory(Server::new(), leaf).await;
    let mut sent = Vec::new();
    connector.connect().await.unwrap().read_to_end(&mut sent).await.unwrap();
    assert!(sent.len() >= MIB);
    assert_eq!(server.end().await.closed(CloseReason::Panic), 0);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_no_answer_has_30_s() {
    let leaf = framed(Lines::lf().unlimited(), reply_fn(|_: Bytes| vec![b'x'; MIB]));
    let (server, connector) = on_memory(Server::new(), leaf).await;
    let mut client: MemoryStream = connector.connect().await.unwrap();
    client.write_all(b"x\n").await.unwrap();
    for (seconds, given_up) in [(29, 0), (2, 1)] {
        sleep(SECOND * seconds).await;
        assert_eq!(server.closed(CloseReason::Timeout), given_up);
    }
    drop(client);
    server.end().await;
}

#[tokio::test]
async fn the_connections_open_at_once_are_10_000_or_as_many_as_the_descriptors_allow() {
    let descriptors = harness::descriptors();
    let server: Running = on_tcp(Server::new(), shouter()).await;
    let share = (descriptors / 5 * 4).saturating_sub(64).max(descriptors / 2).min(10_000);
    assert_eq!(server.handle().max_connections() as u64, share);
    server.end().await;
}

#[tokio::test]
async fn a_server_has_65_536_endpoints_in_its_life_with_those_that_were_removed() {
    const MOST: usize = 65_536;
    let (server, connector) = on_memory(Server::new(), shouter()).await;
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "a\n", "A\n").await;
    for number in 1..MOST {
        let (endpoint, _) = memory::endpoint();
        assert_eq!(server.handle().add_endpoint("main", endpoint).await.unwrap(), number);
        server.handle().remove_endpoint(number).await.unwrap();
    }
    let (endpoint, _) = memory::endpoint();
    let error = server.handle().add_endpoint("main", endpoint).await.unwrap_err().to_string();
    assert!(error.contains("65536"), "{error}");
    ask(&mut client, "b\n", "B\n").await;
    drop(client);
    server.end().await;
}
