//! Inherited sockets behind a proxy and with TLS: what they are is known only when they are bound.
#![cfg(target_os = "linux")] // with abstract names

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixListener;
use std::process::{Child, Command};

use ropewalk::Endpoint;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::encrypted::{self, Ca, Folder, localhost, soon};
use crate::support::{self, Client, TempDir, run};

/// Runs the example with standard input as descriptor 3, as a service manager would pass it.
const PASS: &str =
    "export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=web; exec \"$@\" 3<&0 </dev/null";

fn activated(socket: impl Into<OwnedFd>, endpoint: &str) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", PASS, "bash"]).arg(support::command("activated").get_program());
    command.args(["--listen", endpoint]).stdin(socket.into());
    command
}

/// A process that is killed with this value.
struct Process(Child);

impl Process {
    fn start(mut command: Command) -> Self {
        Self(command.spawn().unwrap())
    }

    /// How its answers begin.
    fn says(&self) -> String {
        format!("process {},", self.0.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

fn abstract_listener(which: &str) -> UnixListener {
    let name = format!("ropewalk-activation-{}-{which}", std::process::id());
    UnixListener::bind_addr(&std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap())
        .unwrap()
}

#[test]
fn an_inherited_socket_may_be_behind_a_proxy() {
    for endpoint in [
        "proxy+systemd:web?trust=127.0.0.0/8",
        "proxy+systemd:0?trust=127.0.0.1",
        "proxy+fd:3?trust=::/0",
    ] {
        let (listener, addr) = listener();
        let process = Process::start(activated(listener, endpoint));
        let mut client = Client::tcp(addr);
        if endpoint.ends_with("::/0") {
            assert_eq!(client.rest(), b"", "an untrusted proxy is closed");
            continue;
        }
        client.send("PROXY TCP4 192.0.2.7 192.0.2.1 56324 25\r\nwho?\n");
        assert!(client.line().starts_with(&process.says()), "{endpoint}");
    }
    let dir = TempDir::new();
    let path = dir.join("x.sock");
    let process =
        Process::start(activated(UnixListener::bind(&path).unwrap(), "proxy+systemd:web"));
    let mut client = Client::unix(&path);
    client.send("PROXY UNKNOWN\r\nwho?\n");
    assert!(client.line().starts_with(&process.says()));
}

#[test]
fn the_trusted_peers_of_a_proxied_socket_must_fit_its_kind() {
    let dir = TempDir::new();
    let path = dir.join("x.sock");
    let unix = UnixListener::bind(&path).unwrap();
    for (socket, endpoint, said) in [
        (listener().0.into(), "proxy+systemd:web", "no proxy is trusted"),
        (listener().0.into(), "proxy+fd:3", "no proxy is trusted"),
        (
            OwnedFd::from(unix),
            "proxy+systemd:web?trust=::1",
            "trust is for endpoints with addresses",
        ),
        (abstract_listener("a").into(), "proxy+systemd:web", "any process can connect to it"),
        (
            abstract_listener("b").into(),
            "proxy+systemd:web?trust=::1",
            "any process can connect to it",
        ),
    ] {
        let (status, words) = run(activated(socket, endpoint));
        assert!(!status.success());
        assert!(words.contains(said), "{said:?} is not in {words:?}");
    }
}

#[tokio::test]
async fn an_inherited_socket_may_be_encrypted_and_behind_a_proxy_too() {
    let (ca, folder) = (Ca::new(), Folder::new());
    for endpoint in [Endpoint::systemd("web"), Endpoint::fd(3)] {
        for trusted in [None, Some("127.0.0.0/8")] {
            let mut endpoint = endpoint.clone().tls(localhost(&ca, &folder));
            if let Some(network) = trusted {
                endpoint = endpoint.proxied([network.parse().unwrap()]);
            }
            let (listener, addr) = listener();
            let process = Process::start(activated(listener, &endpoint.to_string()));
            let mut tcp = TcpStream::connect(addr).await.unwrap();
            if trusted.is_some() {
                tcp.write_all(b"PROXY UNKNOWN\r\n").await.unwrap();
            }
            let mut stream = encrypted::Client::new(&ca, "localhost").shake(tcp).await.unwrap();
            stream.write_all(b"who?\n").await.unwrap();
            let mut answer = vec![0; process.says().len()];
            soon(stream.read_exact(&mut answer)).await.unwrap();
            assert_eq!(String::from_utf8(answer).unwrap(), process.says(), "{endpoint}");
        }
    }
}
