//! The dns_client example against BIND, where it is installed: in plaintext and over TLS, with
//! answers that overtake others.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use crate::encrypted::{Ca, Folder};
use crate::support::{TempDir, command, program, until};

const ZONE: &str = "\
$TTL 60
@ SOA ns hostmaster 1 3600 600 86400 60
@ NS ns
ns A 192.0.2.1
www A 192.0.2.2
www A 192.0.2.3
mail A 192.0.2.4
";

struct Bind {
    server: Child,
    plain: u16,
    encrypted: u16,
    /// Lets the server answer that BIND asks for `slow.example`.
    answer: Sender<()>,
}

impl Drop for Bind {
    fn drop(&mut self) {
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

/// A server that BIND asks, and that answers its first query only when it is told to; all of them
/// with an address.
fn reluctant() -> (u16, Sender<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let (answer, told) = channel();
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((n, from)) = socket.recv_from(&mut query) {
            let name_end = 12 + query[12..n].iter().position(|byte| *byte == 0).unwrap();
            let mut reply = query[..name_end + 5].to_vec();
            // A response with one question and one answer, which is the name of the question, of
            // type A, for 0 s.
            reply[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
            reply.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 192, 0, 2, 9]);
            if told.recv().is_err() {
                return;
            }
            drop(socket.send_to(&reply, from));
        }
    });
    (port, answer)
}

/// A port that was free a moment ago: named takes no 0.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Bind {
    fn start(named: &PathBuf, dir: &TempDir, cert: &str, key: &str) -> Self {
        let ((reluctant, answer), plain, encrypted) = (reluctant(), free_port(), free_port());
        std::fs::write(dir.join("zone"), ZONE).unwrap();
        let folder = dir.join("").display().to_string();
        let conf = format!(
            r#"
            tls own {{ cert-file "{cert}"; key-file "{key}"; }};
            options {{
                directory "{folder}";
                pid-file none;
                session-keyfile none;
                listen-on port {plain} {{ 127.0.0.1; }};
                listen-on port {encrypted} tls own {{ 127.0.0.1; }};
                listen-on-v6 {{ none; }};
                recursion yes;
                dnssec-validation no;
            }};
            controls {{ }};
            zone "example.org" {{ type primary; file "zone"; }};
            zone "slow.example" {{ type forward; forward only; forwarders {{ 127.0.0.1 port {reluctant}; }}; }};
            "#
        );
        std::fs::write(dir.join("named.conf"), conf).unwrap();
        let mut server = Command::new(named);
        server
            .arg("-f")
            .arg("-c")
            .arg(dir.join("named.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let bind = Self { server: server.spawn().unwrap(), plain, encrypted, answer };
        let listens = |port| TcpStream::connect(("127.0.0.1", port)).is_ok();
        until("named listens", || listens(plain) && listens(encrypted));
        // It listens before it has read its zone.
        let ask = || {
            command("dns_client")
                .args(["--to", &format!("tcp:127.0.0.1:{plain}"), "ns.example.org"])
                .output()
        };
        until("named has its zone", || ask().unwrap().stdout == b"ns.example.org 192.0.2.1\n");
        bind
    }
}

#[test]
fn bind_answers_in_plaintext_and_over_tls_and_a_slow_answer_holds_up_no_other() {
    let Some(named) = program("named") else { return };
    let (ca, folder, dir) = (Ca::new(), Folder::new(), TempDir::new());
    let (roots, issued) = (folder.write("ca.pem", ca.pem()), ca.issue(["localhost"]));
    let (cert, key) =
        (folder.write("cert.pem", &issued.cert), folder.write("key.pem", &issued.key));
    let bind = Bind::start(&named, &dir, cert.to_str().unwrap(), key.to_str().unwrap());
    let encrypted = format!("tls:localhost:{}?ca={}&alpn=dot", bind.encrypted, roots.display());
    for to in [format!("tcp:127.0.0.1:{}", bind.plain), encrypted] {
        let names =
            ["www.slow.example", "www.example.org", "mail.example.org", "nobody.example.org"];
        let mut client = command("dns_client");
        let mut client =
            client.args(["--to", &to]).args(names).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(client.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut first: Vec<String> = lines.by_ref().take(3).collect();
        // The one asked for first is answered when the others have been printed, and not before.
        bind.answer.send(()).unwrap();
        assert_eq!(lines.next().as_deref(), Some("www.slow.example 192.0.2.9"));
        assert!(client.wait().unwrap().success());
        first.sort_unstable();
        assert_eq!(first[..2], ["mail.example.org 192.0.2.4", "nobody.example.org "]);
        // BIND turns the addresses of a name by one with each answer.
        let www = first[2].strip_prefix("www.example.org ").unwrap();
        assert!(["192.0.2.2 192.0.2.3", "192.0.2.3 192.0.2.2"].contains(&www), "{www}");
    }
}
