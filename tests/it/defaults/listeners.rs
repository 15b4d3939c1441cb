//! Defaults of what comes before a connection that the README's table names, as a running server
//! has them.

use std::fmt;
use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ropewalk::endpoint::PreambleDrop;
use ropewalk::layer::AcceptRateLayer;
use ropewalk::layer::accept_rate::Rate;
use ropewalk::{Addr, Connection, Endpoint, Error, Server, TlsConfig, memory};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::AsyncWriteExt;
use tokio::task::yield_now;
use tokio::time::Instant;

use crate::encrypted::{Ca, client_hello};
use crate::harness::addressed::addressed;
use crate::harness::{self, Running, shouter};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn a_preamble_makes_room_for_one_of_its_own_address_after_20_ms_or_250_if_its_peer_has_spoken()
 {
    let issued = Ca::new().issue(["localhost"]);
    // The first byte of a handshake.
    for (said, ms, reason) in
        [(&b""[..], 20, PreambleDrop::Silent), (b"\x16", 250, PreambleDrop::Share)]
    {
        let endpoint = Endpoint::tcp(([127, 0, 0, 1], 0).into())
            .tls(TlsConfig::pem(&issued.cert, &issued.key));
        let server =
            Running::start(Server::new().max_preambles(4).listen(endpoint).serve(shouter())).await;
        let connect = || {
            let mut client = TcpStream::connect(server.tcp_addr(0)).unwrap();
            client.write_all(said).unwrap();
            client
        };
        let preambles = || server.handle().preambles();
        let first: Vec<_> = (0..4).map(|_| connect()).collect();
        harness::until("they have begun", || preambles().begun() == 4).await;
        let start = Instant::now();
        let newcomer = connect();
        harness::until("one has made room", || preambles().dropped() == 1).await;
        // It is looked once a millisecond.
        assert!(
            (ms - 2..=ms + 2).contains(&start.elapsed().as_millis()),
            "{said:?}: {:?}",
            start.elapsed()
        );
        assert_eq!(preambles().dropped_for(reason), 1);
        drop((first, newcomer));
        server.end().await;
    }
}

/// Counts the handshakes that have computed so far as to ask for a certificate.
struct Counted(Arc<CertifiedKey>, Arc<AtomicUsize>);

impl ResolvesServerCert for Counted {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.1.fetch_add(1, Ordering::SeqCst);
        Some(Arc::clone(&self.0))
    }
}

impl fmt::Debug for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counted")
    }
}

#[tokio::test]
async fn of_twenty_handshakes_on_one_thread_one_computes_before_other_tasks_have_their_turn() {
    let (ca, computed) = (Ca::new(), Arc::new(AtomicUsize::new(0)));
    let resolver = Counted(ca.issue(["localhost"]).certified(), Arc::clone(&computed));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    let endpoint = Endpoint::tcp(([127, 0, 0, 1], 0).into()).tls(TlsConfig::rustls(config));
    let server = Server::new().listen(endpoint).serve(shouter()).bind().await.unwrap();
    let Addr::Tcp(addr) = server.handle().addresses()[0].clone() else {
        panic!("it is a TCP endpoint")
    };
    // All have said hello before anybody is accepted, and say no more.
    let hello = client_hello(&ca).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(TcpStream::connect(addr).unwrap());
        clients.last_mut().unwrap().write_all(&hello).unwrap();
    }
    let seen = Arc::clone(&computed);
    let other = tokio::spawn(async move {
        let (mut before, mut most) = (0, 0);
        while before < 20 {
            yield_now().await;
            let now = seen.load(Ordering::SeqCst);
            (before, most) = (now, most.max(now - before));
        }
        most
    });
    let handle = server.handle();
    let server = tokio::spawn(server);
    // A turn ends in one round and is given on in the next one.
    let most = other.await.unwrap();
    assert!((1..=2).contains(&most), "{most} in one round");
    handle.stop();
    server.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_proxy_header_has_107_bytes_of_text_or_4096_in_binary() {
    // A header over the limit ends at once; for one that may still be valid the server waits.
    let text = |bytes: usize| [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; bytes - 14]].concat();
    let binary =
        |bytes: u16| [&b"\r\n\r\n\0\r\nQUIT\n\x21\0"[..], &(bytes - 16).to_be_bytes()].concat();
    for (begun, is_waited_for) in
        [(text(105), true), (text(106), false), (binary(4096), true), (binary(4097), false)]
    {
        let (endpoint, connector) = memory::endpoint();
        let server =
            Running::start(Server::new().listen(endpoint.proxied([])).serve(shouter())).await;
        let mut client = connector.connect().await.unwrap();
        client.write_all(&begun).await.unwrap();
        let start = Instant::now();
        harness::assert_cut(&mut client).await;
        let expected = if is_waited_for { 5 * SECOND } else { Duration::ZERO };
        assert!(
            (expected..expected + MS).contains(&start.elapsed()),
            "{} {:?}",
            begun.len(),
            start.elapsed()
        );
        server.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_accept_rate_layer_remembers_65_536_peers() {
    const PEERS: u32 = 65_536;
    let rate = AcceptRateLayer::new().per_peer(Rate::new(1, 1000 * SECOND));
    let (endpoint, from) = addressed();
    let served = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&served);
    let service = tower::service_fn(move |_: Connection| {
        seen.fetch_add(1, Ordering::SeqCst);
        async { Ok::<_, Error>(()) }
    });
    let server =
        Running::start(Server::new().layer(rate.clone()).listen(endpoint).serve(service)).await;
    for n in 0..PEERS + 10 {
        drop(from.host(&Ipv4Addr::from(0x0a00_0000 + n).to_string()));
        if n % 1024 == 0 {
            yield_now().await;
        }
    }
    server.until("all are served", |counts| counts.closed_in_all() == u64::from(PEERS) + 10).await;
    assert_eq!((rate.peers(), rate.untracked()), (65_536, 10));
    server.end().await;
}
