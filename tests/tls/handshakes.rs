//! TLS endpoints: what was settled is what the service sees, and every end is told for what it is.

use std::io;
use std::sync::{Arc, Mutex};

use ropewalk::connection::TlsVersion;
use ropewalk::{
    Addr, Bytes, CloseReason, ConnectionLimitLayer, Lines, Peer, RawBytes, Result, Server, Session,
    TlsConfig, framed, memory, reply_fn, session,
};
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::encrypted::{self, Ca, Client, Folder, Running, echo, localhost, soon, until};

/// Echoes bytes, and remembers its peers.
fn remembering() -> (impl ropewalk::ConnectionService, Arc<Mutex<Vec<Peer>>>) {
    let seen: Arc<Mutex<Vec<Peer>>> = Arc::default();
    let peers = Arc::clone(&seen);
    let service = session(RawBytes, move |mut s: Session<RawBytes>| {
        peers.lock().unwrap().push(s.peer().clone());
        async move {
            while let Some(bytes) = s.next().await? {
                s.feed(bytes)?;
            }
            Ok(())
        }
    });
    (service, seen)
}

fn last(seen: &Mutex<Vec<Peer>>) -> Peer {
    seen.lock().unwrap().last().cloned().expect("a peer was seen")
}

#[tokio::test]
async fn both_versions_are_spoken_over_sockets_and_in_memory() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let (service, seen) = remembering();
    let running = Running::tls(localhost(&ca, &folder), service).await;
    let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    for (version, settled) in [(&TLS12, TlsVersion::Tls12), (&TLS13, TlsVersion::Tls13)] {
        let client = Client::new(&ca, "localhost").version(version);
        let mut tcp = client.tcp(running.addr).await.unwrap();
        echo(&mut tcp, b"hello").await.unwrap();
        let tls = last(&seen).tls().cloned().unwrap();
        assert_eq!(
            (tls.version(), tls.server_name(), tls.alpn()),
            (settled, Some("localhost"), None)
        );
        assert!(tls.certificates().is_empty());
        assert_eq!(last(&seen).addr(), &Addr::Tcp(tcp.get_ref().0.local_addr().unwrap()));
        let mut memory = client.memory(&running.memory).await.unwrap();
        let (mut read, mut write) = tokio::io::split(&mut memory);
        let mut back = vec![0; bytes.len()];
        let send = async {
            write.write_all(&bytes).await.unwrap();
            write.flush().await.unwrap();
        };
        soon(async { tokio::join!(send, read.read_exact(&mut back)).1 }).await.unwrap();
        assert!(back == bytes);
        memory.shutdown().await.unwrap();
        tcp.shutdown().await.unwrap();
    }
    assert_eq!(running.handle.preambles().passed(), 4);
    running.end().await;
}

#[tokio::test]
async fn the_local_address_is_the_sockets() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let service =
        session(Lines::crlf(), async |mut s: Session<Lines>| s.feed(s.local().to_string()));
    let running = Running::tls(localhost(&ca, &folder), service).await;
    let mut tcp = Client::new(&ca, "localhost").tcp(running.addr).await.unwrap();
    let mut text = String::new();
    soon(tcp.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, format!("tcp:{}\r\n", running.addr));
}

#[tokio::test]
async fn a_folder_has_the_certificate_for_the_name_that_is_asked() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let [plain, wild, both] = [
        ca.issue(["a.example"]),
        ca.issue(["*.Example.org", "example.org"]),
        ca.issue(["b.example.org"]),
    ];
    folder.write("one.crt", &plain.cert);
    folder.write("one.key", &plain.key);
    folder.write("wild.pem", format!("{}{}", wild.cert, wild.key));
    folder.write("exact/fullchain.pem", format!("{}{}", both.cert, ca.pem()));
    folder.write("exact/privkey.pem", &both.key);
    folder.write("README", "not a certificate");
    let (service, _seen) = remembering();
    let running = Running::tls(TlsConfig::folder(folder.path()), service).await;
    let shown = async |name: &str| {
        let client = Client::new(&ca, name).tcp(running.addr).await?;
        io::Result::Ok(client.get_ref().1.peer_certificates().unwrap()[0].to_vec())
    };
    for (name, issued) in [
        ("a.example", &plain),
        ("example.org", &wild),
        ("any.example.org", &wild),
        ("ANY.EXAMPLE.ORG", &wild),
        ("b.example.org", &both),
    ] {
        assert!(shown(name).await.unwrap() == issued.der, "{name}");
    }
    for name in ["c.d.example.org", "unknown.example", "127.0.0.1"] {
        let error = shown(name).await.unwrap_err();
        assert!(error.to_string().contains("AccessDenied"), "{name}: {error}");
    }
    let default = ca.issue(["a.example", "unknown.example"]);
    folder.write("default.pem", format!("{}{}", default.key, default.cert));
    running.handle.reload().await.unwrap();
    assert!(shown("unknown.example").await.unwrap() == default.der);
    // A name of its own, and no name at all, get it as well; what others have stays theirs.
    let error = shown("c.d.example.org").await.unwrap_err();
    assert!(error.to_string().contains("not valid for name"), "{error}");
    let error = shown("127.0.0.1").await.unwrap_err();
    assert!(error.to_string().contains("not valid for name"), "{error}");
    assert!(shown("b.example.org").await.unwrap() == both.der);
}

#[tokio::test]
async fn alpn_settles_on_the_servers_best_and_no_overlap_is_an_alert() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let (service, seen) = remembering();
    let running = Running::tls(localhost(&ca, &folder).alpn(["echo/2", "echo/1"]), service).await;
    let client = |protocols: &[&str]| Client::new(&ca, "localhost").alpn(protocols);
    let mut stream = client(&["echo/1", "echo/2"]).tcp(running.addr).await.unwrap();
    echo(&mut stream, b"x").await.unwrap();
    assert_eq!(last(&seen).tls().unwrap().alpn(), Some(&b"echo/2"[..]));
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"echo/2"[..]));
    let mut silent = client(&[]).tcp(running.addr).await.unwrap();
    echo(&mut silent, b"x").await.unwrap();
    assert_eq!(last(&seen).tls().unwrap().alpn(), None);
    for version in [&TLS12, &TLS13] {
        let error = client(&["h2"]).version(version).tcp(running.addr).await.unwrap_err();
        assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    }
    until("both are counted", || running.handle.preambles().failed() == 2).await;
    assert_eq!(running.handle.counts().accepted(), 2);
}

#[tokio::test]
async fn without_alpn_the_offer_of_a_client_is_ignored() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let (service, seen) = remembering();
    let running = Running::tls(localhost(&ca, &folder), service).await;
    let mut stream = Client::new(&ca, "localhost").alpn(&["h2"]).tcp(running.addr).await.unwrap();
    echo(&mut stream, b"x").await.unwrap();
    assert_eq!(last(&seen).tls().unwrap().alpn(), None);
}

#[tokio::test]
async fn a_client_shows_its_certificate_where_it_is_asked_to() {
    let (ca, folder, people, strangers) = (Ca::new(), Folder::new(), Ca::new(), Ca::new());
    let (service, seen) = remembering();
    let tls = localhost(&ca, &folder).client_ca(folder.write("people.pem", people.pem()));
    let running = Running::tls(tls, service).await;
    let (alice, mallory) = (people.issue(["alice"]), strangers.issue(["alice"]));
    for version in [&TLS12, &TLS13] {
        let client = || Client::new(&ca, "localhost").version(version);
        let mut stream = client().identity(&alice).tcp(running.addr).await.unwrap();
        echo(&mut stream, b"x").await.unwrap();
        assert_eq!(last(&seen).certificates(), std::slice::from_ref(&alice.der));
        let before = seen.lock().unwrap().len();
        for (stranger, alert) in
            [(client(), "CertificateRequired"), (client().identity(&mallory), "UnknownCA")]
        {
            // Under TLS 1.3 a client is through before the server has seen its certificate.
            let refused = match stranger.tcp(running.addr).await {
                Ok(mut stream) => soon(stream.read_u8()).await.unwrap_err(),
                Err(error) => error,
            };
            assert!(refused.to_string().contains(alert), "{refused}");
        }
        assert_eq!(seen.lock().unwrap().len(), before);
    }
}

#[tokio::test]
async fn a_close_says_goodbye_and_every_byte_before_it_arrives() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let big = vec![b'x'; 700_000];
    let text = big.clone();
    let service = session(RawBytes, move |mut s: Session<RawBytes>| {
        let text = text.clone();
        async move {
            s.next().await?;
            s.feed(text)?;
            s.close().await
        }
    });
    let running = Running::tls(localhost(&ca, &folder), service).await;
    for version in [&TLS12, &TLS13] {
        let client = Client::new(&ca, "localhost").version(version);
        let mut stream = client.tcp(running.addr).await.unwrap();
        // More than is ever read: without the lingering close it would cost us the answer.
        echo_less(&mut stream, &[b'y'; 100_000]).await;
        let mut answer = Vec::new();
        // Without a goodbye this is an error.
        soon(stream.read_to_end(&mut answer)).await.unwrap();
        assert!(answer == big);
        let mut stream = client.memory(&running.memory).await.unwrap();
        echo_less(&mut stream, b"y").await;
        let mut answer = Vec::new();
        soon(stream.read_to_end(&mut answer)).await.unwrap();
        assert!(answer == big);
    }
    running.end().await;
}

async fn echo_less<S: tokio::io::AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
}

#[tokio::test]
async fn a_half_closed_client_still_gets_its_answer() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let (service, _seen) = remembering();
    let running = Running::tls(localhost(&ca, &folder), service).await;
    let mut stream = Client::new(&ca, "localhost").tcp(running.addr).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    // A goodbye, and a half-close of the socket.
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, b"hello");
    running.end().await;
}

/// Serves lines and notes how the session's input ended.
fn noting() -> (impl ropewalk::ConnectionService, Arc<Mutex<Vec<String>>>) {
    let ends: Arc<Mutex<Vec<String>>> = Arc::default();
    let notes = Arc::clone(&ends);
    let service = session(Lines::crlf(), move |mut s: Session<Lines>| {
        let notes = Arc::clone(&notes);
        async move {
            let end: Result = async {
                while let Some(line) = s.next().await? {
                    notes.lock().unwrap().push(String::from_utf8_lossy(&line).into_owned());
                }
                Ok(())
            }
            .await;
            let kind =
                |error: &ropewalk::Error| error.downcast_ref::<io::Error>().map(io::Error::kind);
            let note = end
                .as_ref()
                .map_or_else(|error| format!("{:?}", kind(error)), |()| "end".to_owned());
            notes.lock().unwrap().push(note);
            end
        }
    });
    (service, ends)
}

#[tokio::test]
async fn an_end_without_a_goodbye_is_told_from_a_clean_one() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let (service, ends) = noting();
    let running = Running::tls(localhost(&ca, &folder), service).await;
    let client = Client::new(&ca, "localhost");

    let mut clean = client.tcp(running.addr).await.unwrap();
    echo_less(&mut clean, b"one\r\n").await;
    clean.shutdown().await.unwrap();
    assert_eq!(soon(clean.read(&mut [0])).await.unwrap(), 0);
    assert_eq!(std::mem::take(&mut *ends.lock().unwrap()), ["one", "end"]);

    let mut cut = client.tcp(running.addr).await.unwrap();
    echo_less(&mut cut, b"two\r\n").await;
    // The socket ends, and TLS was not told.
    let (socket, _) = cut.get_mut();
    socket.shutdown().await.unwrap();
    drop(soon(cut.read_to_end(&mut Vec::new())).await);
    assert_eq!(*ends.lock().unwrap(), ["two", "Some(UnexpectedEof)"]);
    let handle = running.handle.clone();
    running.end().await;
    assert_eq!(
        (handle.counts().closed(CloseReason::Done), handle.counts().closed(CloseReason::PeerReset)),
        (1, 1)
    );
}

#[tokio::test]
async fn an_abort_resets_the_socket() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let service = session(RawBytes, async |mut s: Session<RawBytes>| {
        s.next().await?;
        s.abort();
        Ok(())
    });
    let running = Running::tls(localhost(&ca, &folder), service).await;
    let client = Client::new(&ca, "localhost");
    let mut tcp = client.tcp(running.addr).await.unwrap();
    echo_less(&mut tcp, b"x").await;
    assert_eq!(soon(tcp.read_u8()).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let mut memory = client.memory(&running.memory).await.unwrap();
    echo_less(&mut memory, b"x").await;
    assert_eq!(soon(memory.read_u8()).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(running.handle.counts().closed(CloseReason::Aborted), 2);
}

/// In memory and on paused time: however long 260 handshakes take, the refused ones are closed at
/// leisure meanwhile.
#[tokio::test(start_paused = true)]
async fn layers_stand_inside_tls_and_a_refused_peer_can_read_why() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let (endpoint, connector) = memory::endpoint();
    let service = framed(RawBytes, reply_fn(|bytes: Bytes| bytes));
    let server = Server::new()
        .listen(endpoint.tls(localhost(&ca, &folder)))
        .layer(ConnectionLimitLayer::new(1).refuse_with("too many\r\n"));
    let server = server.serve(service).bind().await.unwrap();
    let handle = server.handle();
    let task = tokio::spawn(server);
    let client = Client::new(&ca, "localhost");
    let mut first = client.memory(&connector).await.unwrap();
    echo(&mut first, b"x").await.unwrap();
    // More than are refused at leisure at once: the last ones get one write.
    let mut others = Vec::new();
    for _ in 0..260 {
        others.push(client.memory(&connector).await.unwrap());
    }
    for other in &mut others {
        let mut text = String::new();
        // Without a goodbye this is an error.
        soon(other.read_to_string(&mut text)).await.unwrap();
        assert_eq!(text, "too many\r\n");
    }
    drop((first, others));
    handle.drain(encrypted::PATIENCE);
    soon(task).await.unwrap().unwrap();
    let (refused, at_once) = (
        handle.counts().closed(CloseReason::Refused),
        handle.counts().closed(CloseReason::RefusedAtOnce),
    );
    assert!(refused + at_once == 260 && at_once >= 1, "{refused} and {at_once}");
}
