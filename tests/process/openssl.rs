//! The TLS examples against `openssl s_client`, a peer that is not of our making.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use crate::encrypted::{Ca, Folder, Issued, text};
use crate::support::{Example, TempDir, command, program, until};

/// Whether there is one; a test without it says so and passes.
fn openssl() -> bool {
    program("openssl").is_some()
}

/// A running `openssl s_client`.
struct Client {
    child: Child,
    stdin: Option<ChildStdin>,
    said: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Client {
    /// Connects to this address, with more arguments.
    fn connect(addr: SocketAddr, args: &[&str]) -> Self {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &addr.to_string()]).args(args);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said: Arc<Mutex<Vec<u8>>> = Arc::default();
        let pipes: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        let read = |mut pipe: Box<dyn Read + Send>| {
            let said = Arc::clone(&said);
            thread::spawn(move || {
                let mut buf = [0; 4096];
                while let Ok(n @ 1..) = pipe.read(&mut buf) {
                    said.lock().unwrap().extend_from_slice(&buf[..n]);
                }
            })
        };
        let readers = pipes.map(read).into();
        Self { stdin: child.stdin.take(), child, said, readers }
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&self.said.lock().unwrap()).into_owned()
    }

    fn send(&mut self, text: &str) {
        self.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn expect(&self, text: &str) {
        until(&format!("s_client says {text:?}"), || self.said().contains(text));
    }

    /// Ends its input, and waits until it has ended as well; returns whether it is content, and all
    /// it said.
    fn end(mut self) -> (bool, String) {
        drop(self.stdin.take());
        let mut ended = None;
        until("s_client ends", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        self.readers.drain(..).for_each(|reader| reader.join().unwrap());
        (ended.unwrap().success(), self.said())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// `tls_echo` with this certificate.
fn echo(folder: &Folder, issued: &Issued) -> Example {
    let (cert, key) =
        (folder.write("cert.pem", &issued.cert), folder.write("key.pem", &issued.key));
    Example::start_with("tls_echo", &["--cert", text(&cert), "--key", text(&key)])
}

#[test]
fn it_gets_its_echo_under_both_versions_and_verifies_the_name() {
    if !openssl() {
        return;
    }
    let (ca, folder) = (Ca::new(), Folder::new());
    let echo = echo(&folder, &ca.issue(["echo.example"]));
    let ca = folder.write("ca.pem", ca.pem());
    for version in ["-tls1_2", "-tls1_3"] {
        let args = [
            version,
            "-CAfile",
            text(&ca),
            "-servername",
            "echo.example",
            "-verify_hostname",
            "echo.example",
        ];
        let mut client =
            Client::connect(echo.tcp, &[&args[..], &["-verify_return_error"]].concat());
        client.send("hello there\n");
        client.expect("\nhello there\n");
        let (content, said) = client.end();
        assert!(content && said.contains("Verify return code: 0 (ok)"), "{said}");
        assert!(said.contains(if version == "-tls1_2" { "TLSv1.2" } else { "TLSv1.3" }), "{said}");
    }
    let (content, said) =
        Client::connect(echo.tcp, &["-tls1_1", "-cipher", "ALL@SECLEVEL=0"]).end();
    assert!(!content && said.contains("alert"), "{said}");
}

#[test]
fn it_talks_to_the_certificate_the_example_made_itself() {
    if !openssl() {
        return;
    }
    let echo = Example::start("tls_echo");
    let mut client = Client::connect(echo.tcp, &["-verify_hostname", "localhost"]);
    client.send("hello\n");
    client.expect("\nhello\n");
    let (content, said) = client.end();
    assert!(content && said.contains("self-signed certificate"), "{said}");
}

#[test]
fn it_is_shown_the_certificate_of_the_name_it_asks_for_and_settles_on_a_protocol() {
    if !openssl() {
        return;
    }
    let (ca, folder) = (Ca::new(), Folder::new());
    for (file, name) in [("default", "first.example"), ("other", "*.other.example")] {
        let issued = ca.issue([name]);
        folder.write(&format!("{file}.pem"), format!("{}{}", issued.cert, issued.key));
    }
    let roots = Folder::new();
    let roots = roots.write("ca.pem", ca.pem());
    let mut command = command("echo");
    command.args([
        "--listen",
        &format!("tls:127.0.0.1:0?certs={}&alpn=echo/2,echo/1", text(folder.path())),
    ]);
    let dir = TempDir::new();
    // Its first line is the address of the endpoint with TLS.
    let echo = Example::spawn_behind(command, dir);
    for (name, shown) in
        [("x.other.example", "x.other.example"), ("unknown.example", "first.example")]
    {
        let args = [
            "-CAfile",
            text(&roots),
            "-servername",
            name,
            "-verify_hostname",
            shown,
            "-verify_return_error",
        ];
        let mut client =
            Client::connect(echo.first, &[&args[..], &["-alpn", "h2,echo/1"]].concat());
        client.send("hello\n");
        client.expect("\nhello\n");
        let (content, said) = client.end();
        assert!(content && said.contains("ALPN protocol: echo/1"), "{said}");
    }
    let (content, said) = Client::connect(echo.first, &["-alpn", "h2"]).end();
    assert!(!content && said.contains("no application protocol"), "{said}");
}

#[test]
fn it_is_let_in_with_a_certificate_and_refused_without() {
    if !openssl() {
        return;
    }
    let (ca, folder) = (Ca::new(), Folder::new());
    let issued = ca.issue(["localhost"]);
    let ca_file = folder.write("ca.pem", ca.pem());
    let server = folder.write("server.pem", format!("{}{}", issued.cert, issued.key));
    let alice = ca.issue(["alice"]);
    let alice = folder.write("alice.pem", format!("{}{}", alice.cert, alice.key));
    let mut command = command("echo");
    let (server, ca_file) = (text(&server), text(&ca_file));
    command.args([
        "--listen",
        &format!("tls:127.0.0.1:0?cert={server}&key={server}&client-ca={ca_file}"),
    ]);
    let echo = Example::spawn_behind(command, TempDir::new());
    for version in ["-tls1_2", "-tls1_3"] {
        let mut client =
            Client::connect(echo.first, &[version, "-cert", text(&alice), "-key", text(&alice)]);
        client.send("hello\n");
        client.expect("\nhello\n");
        assert!(client.end().0);
        let mut client = Client::connect(echo.first, &[version]);
        client.send("hello\n");
        client.expect("alert certificate required");
    }
}

#[test]
fn it_starts_tls_in_the_middle_of_smtp() {
    if !openssl() {
        return;
    }
    let (ca, folder) = (Ca::new(), Folder::new());
    let issued = ca.issue(["mail.example"]);
    let (cert, key) =
        (folder.write("cert.pem", &issued.cert), folder.write("key.pem", &issued.key));
    let ca = folder.write("ca.pem", ca.pem());
    let smtp = Example::start_with("starttls", &["--cert", text(&cert), "--key", text(&key)]);
    for (version, name) in [("-tls1_2", "TLS 1.2"), ("-tls1_3", "TLS 1.3")] {
        let args = [
            "-starttls",
            "smtp",
            version,
            "-CAfile",
            text(&ca),
            "-verify_hostname",
            "mail.example",
        ];
        let mut client =
            Client::connect(smtp.tcp, &[&args[..], &["-verify_return_error", "-crlf"]].concat());
        client.send("EHLO me\n");
        client.expect(&format!("250 localhost, by {name}"));
        client.send("NOOP\n");
        client.expect("250 ok");
        // In capitals it would tell s_client to quit.
        client.send("quit\n");
        client.expect("221 bye");
        // It ends by the server's goodbye, without which it says "unexpected eof".
        let (content, said) = client.end();
        assert!(content && !said.contains("unexpected eof"), "{said}");
    }
}
