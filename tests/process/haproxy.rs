//! Behind HAProxy itself, and behind curl, which sends PROXY headers too.
#![cfg(target_os = "linux")] // where all of 127.0.0.0/8 is this machine

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use rcgen::{CertificateParams, DnType};
use ropewalk::proxy::{Tlv, Version};
use ropewalk::{Addr, Endpoint, Handle, Lines, Peer, Result, Server, Session, TlsConfig, session};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;

use crate::encrypted::{self, Ca, Client, Folder, soon, text, until};
use crate::support;

/// Every peer a server has seen.
type Seen = Arc<Mutex<Vec<Peer>>>;

/// A server on TCP, TLS and a Unix socket, all behind a proxy, that gives lines back.
struct Backend {
    handle: Handle,
    seen: Seen,
    folder: Folder,
    ca: Ca,
}

impl Backend {
    async fn start() -> Self {
        let (folder, ca) = (Folder::new(), Ca::new());
        // With a name other than the signer's, or OpenSSL takes it for one that has signed itself.
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "localhost");
        let issued = ca.issue_params(&params);
        let key = folder.write("key.pem", &issued.key);
        let tls = TlsConfig::files(folder.write("cert.pem", &issued.cert), key);
        // As HAProxy wants them.
        folder.write("both.pem", [issued.cert, issued.key].concat());
        let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
        let trusted = ["127.0.0.1/32".parse().unwrap()];
        let seen = Seen::default();
        let peers = Arc::clone(&seen);
        let lines = move |mut s: Session<Lines>| {
            peers.lock().unwrap().push(s.peer().clone());
            async move {
                while let Some(line) = s.next().await? {
                    s.feed(line)?;
                }
                Result::Ok(())
            }
        };
        let server = Server::new()
            .listen(Endpoint::tcp(any).proxied(trusted))
            .listen(Endpoint::tcp(any).proxied(trusted).tls(tls))
            .listen(Endpoint::unix(folder.join("x.sock")).proxied([]))
            .serve(session(Lines::lf(), lines));
        let server = server.bind().await.unwrap();
        let handle = server.handle();
        tokio::spawn(server);
        Self { handle, seen, folder, ca }
    }

    fn addr(&self, listener: usize) -> SocketAddr {
        let Addr::Tcp(addr) = self.handle.addresses()[listener] else { panic!("no port") };
        addr
    }

    /// The peer that this client was for the server, through HAProxy and a header of this version.
    #[track_caller]
    fn peer(&self, client: &TcpStream, haproxy: &Haproxy, version: Version) -> Peer {
        let addr = Addr::Tcp(client.local_addr().unwrap());
        let seen = self.seen.lock().unwrap();
        let peer = seen
            .iter()
            .find(|peer| *peer.addr() == addr)
            .unwrap_or_else(|| panic!("{addr} is not in {seen:?}"));
        let told = peer.proxied().unwrap();
        assert_eq!(told.header().version(), version);
        assert_eq!(told.destination(), Some(&Addr::Tcp(haproxy.addr)));
        assert_ne!(told.proxy().addr(), peer.addr());
        peer.clone()
    }
}

/// A free port on a loopback address of this test's own, so that nobody takes it before HAProxy
/// does.
fn free_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, high | 0x80, low, NEXT.fetch_add(1, Ordering::Relaxed));
    TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap()
}

/// A running HAProxy; killed when this is dropped.
struct Haproxy {
    child: Child,
    addr: SocketAddr,
}

impl Haproxy {
    /// One proxy: what it binds with, and to which server with which options. `None` where there is
    /// no HAProxy.
    async fn start(folder: &Folder, bind: &str, server: &str) -> Option<Self> {
        let program = support::program("haproxy")?;
        let addr = free_address();
        let config = format!(
            "global\n maxconn 100\n\
             defaults\n mode tcp\n timeout connect 20s\n timeout client 20s\n timeout server 20s\n\
             listen tested\n bind {addr} {bind}\n unique-id-format id-%cp\n server backend {server}\n"
        );
        let config = folder.write("haproxy.cfg", config);
        let mut child = Command::new(program)
            .args(["-db", "-f"])
            .arg(config)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        until("HAProxy listens", || {
            assert!(
                child.try_wait().unwrap().is_none(),
                "HAProxy has ended: what it said is above"
            );
            std::net::TcpStream::connect(addr).is_ok()
        })
        .await;
        Some(Self { child, addr })
    }

    async fn connect(&self) -> TcpStream {
        soon(TcpStream::connect(self.addr)).await.unwrap()
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Sends a line and reads it again.
async fn echoed<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    encrypted::echo(stream, b"hello\n").await.unwrap();
}

/// Ends a test that has nothing to test with, which was said.
macro_rules! haproxy {
    ($backend:expr, $bind:expr, $server:expr) => {
        match Haproxy::start(&$backend.folder, $bind, $server).await {
            Some(haproxy) => haproxy,
            None => return,
        }
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn version_1_is_understood() {
    let backend = Backend::start().await;
    let haproxy = haproxy!(backend, "", &format!("{} send-proxy", backend.addr(0)));
    let mut client = haproxy.connect().await;
    echoed(&mut client).await;
    backend.peer(&client, &haproxy, Version::V1);
}

#[tokio::test(flavor = "multi_thread")]
async fn version_2_is_understood_with_its_checksum_and_values() {
    let backend = Backend::start().await;
    let options = "send-proxy-v2 proxy-v2-options crc32c,unique-id";
    let haproxy = haproxy!(backend, "", &format!("{} {options}", backend.addr(0)));
    let mut client = haproxy.connect().await;
    echoed(&mut client).await;
    let peer = backend.peer(&client, &haproxy, Version::V2);
    let header = peer.proxied().unwrap().header();
    let id = format!("id-{}", client.local_addr().unwrap().port());
    assert_eq!(header.tlv(Tlv::UNIQUE_ID), Some(id.as_bytes()));
    assert_eq!(header.tlv(Tlv::CRC32C).map(<[u8]>::len), Some(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn version_2_is_understood_before_tls() {
    let backend = Backend::start().await;
    let ca = backend.folder.write("ca.pem", backend.ca.pem());
    let options =
        format!("send-proxy-v2 ssl verify required ca-file {} sni str(localhost)", text(&ca));
    let haproxy = haproxy!(backend, "", &format!("{} {options}", backend.addr(1)));
    let mut client = haproxy.connect().await;
    echoed(&mut client).await;
    let peer = backend.peer(&client, &haproxy, Version::V2);
    assert_eq!(peer.tls().unwrap().server_name(), Some("localhost"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tls_parameters_between_client_and_haproxy_are_passed_on() {
    let backend = Backend::start().await;
    let pem = backend.folder.join("both.pem");
    let server =
        format!("{} send-proxy-v2-ssl-cn proxy-v2-options ssl,authority,crc32c", backend.addr(0));
    let haproxy = haproxy!(backend, &format!("ssl crt {}", text(&pem)), &server);
    let client = Client::new(&backend.ca, "localhost");
    let mut stream = client.tcp(haproxy.addr).await.unwrap();
    echoed(&mut stream).await;
    let peer = backend.peer(stream.get_ref().0, &haproxy, Version::V2);
    assert!(peer.tls().is_none(), "that was the proxy's");
    let header = peer.proxied().unwrap().header();
    assert_eq!(header.tlv(Tlv::AUTHORITY), Some(&b"localhost"[..]));
    let ssl = header.ssl().unwrap();
    assert!(ssl.is_tls() && !ssl.has_certificate() && !ssl.is_verified());
    assert_eq!(ssl.tlv(Tlv::SSL_VERSION), Some(&b"TLSv1.3"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_is_served_as_well() {
    for (option, version) in [("send-proxy", Version::V1), ("send-proxy-v2", Version::V2)] {
        let backend = Backend::start().await;
        let path = backend.folder.join("x.sock");
        let haproxy = haproxy!(backend, "", &format!("unix@{} {option}", text(&path)));
        let mut client = haproxy.connect().await;
        echoed(&mut client).await;
        let peer = backend.peer(&client, &haproxy, version);
        let proxy = peer.proxied().unwrap().proxy();
        assert!(proxy.credentials().is_some() && peer.credentials().is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_check_is_haproxys_own_connection() {
    let backend = Backend::start().await;
    let haproxy =
        haproxy!(backend, "", &format!("{} send-proxy-v2 check inter 50ms", backend.addr(0)));
    // They close at once, mostly before a server has them; those that were served suffice.
    until("some checks are served", || backend.handle.preambles().passed() >= 3).await;
    let checks: Vec<Peer> = backend.seen.lock().unwrap().clone();
    for peer in checks.iter().filter(|peer| peer.proxied().unwrap().header().is_local()) {
        assert_eq!(peer.addr(), peer.proxied().unwrap().proxy().addr());
    }
    assert!(checks.iter().any(|peer| peer.proxied().unwrap().header().is_local()), "{checks:?}");
    let mut client = haproxy.connect().await;
    echoed(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_not_trusted_gets_nothing_through() {
    let backend = Backend::start().await;
    let haproxy =
        haproxy!(backend, "", &format!("{} send-proxy-v2 source 127.0.0.9", backend.addr(0)));
    let mut client = haproxy.connect().await;
    client.write_all(b"hello\r\n").await.unwrap();
    let mut answer = Vec::new();
    drop(soon(client.read_to_end(&mut answer)).await);
    assert!(answer.is_empty());
    assert_eq!(backend.handle.counts().accepted(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_megabyte_goes_through_and_back() {
    let backend = Backend::start().await;
    let haproxy = haproxy!(backend, "", &format!("{} send-proxy-v2", backend.addr(0)));
    let (mut read, mut write) = haproxy.connect().await.into_split();
    let line = [&[b'x'; 1023][..], b"\n"].concat();
    let lines = line.repeat(1024);
    let sent = lines.clone();
    let sending = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut back = Vec::new();
    soon(read.read_to_end(&mut back)).await.unwrap();
    sending.await.unwrap();
    assert!(back == lines);
}

/// Runs curl against a server that answers with the address of the client; `None` if there is no
/// curl.
async fn curl(args: &'static [&str], url: String) -> Option<Output> {
    let mut command = Command::new(support::program("curl")?);
    command.args([
        "--silent",
        "--show-error",
        "--max-time",
        "20",
        "--haproxy-protocol",
        "--write-out",
    ]);
    command.arg("\n%{local_ip}:%{local_port}").args(args).arg(url);
    Some(spawn_blocking(move || command.output().unwrap()).await.unwrap())
}

/// Answers one request.
async fn hello(mut s: Session<Lines>) -> Result {
    while s.next().await?.is_some_and(|line| !line.is_empty()) {}
    let peer = s.peer().clone();
    let version = peer.proxied().unwrap().header().version();
    for line in ["HTTP/1.0 200 OK", "Content-Type: text/plain", "", &format!("{peer} {version:?}")]
    {
        s.feed(line.to_owned())?;
    }
    s.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_is_understood_also_before_tls() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    let trusted = ["127.0.0.1/32".parse().unwrap()];
    let server = Server::new()
        .listen(Endpoint::tcp(any).proxied(trusted))
        .listen(Endpoint::tcp(any).proxied(trusted).tls(encrypted::localhost(&ca, &folder)))
        .serve(session(Lines::crlf(), hello));
    let server = server.bind().await.unwrap();
    let handle = server.handle();
    tokio::spawn(server);
    for (scheme, addr) in ["http", "https"].into_iter().zip(handle.addresses()) {
        let url = addr.to_string().replace("tcp:", &format!("{scheme}://"));
        let Some(output) = curl(&["--insecure"], url).await else { return };
        let (answer, error) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{error}");
        let (told, own) = answer.split_once("\r\n\n").unwrap();
        assert_eq!(told, format!("tcp:{own} V1"));
    }
}
