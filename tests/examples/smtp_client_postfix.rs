//! The smtp_client example against Postfix, where it is installed: its smtp-sink in plaintext, its
//! smtpd with STARTTLS.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use crate::encrypted::{Ca, Folder};
use crate::support::{self, TempDir, command, program, until};

const MAIL: &str = "Subject: one\n\n.\n..two\nhello\n";

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn hands_in(port: u16, args: &[&str]) -> Output {
    let mut client = command("smtp_client");
    client.args([
        "--to",
        &format!("tcp:127.0.0.1:{port}"),
        "--from",
        "ann@example.org",
        "--rcpt",
        "bob@example.org",
    ]);
    client.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut client = client.spawn().unwrap();
    client.stdin.take().unwrap().write_all(MAIL.as_bytes()).unwrap();
    client.wait_with_output().unwrap()
}

/// A process that is killed when this value goes.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// All files in a folder, one after another.
fn texts(folder: &Path) -> String {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| fs::read_to_string(entry.path()).unwrap_or_default()).collect()
}

#[test]
fn smtp_sink_is_handed_a_mail_with_its_dots() {
    let Some(sink) = program("smtp-sink") else { return };
    let (dir, port) = (TempDir::new(), free_port());
    let mut server = Command::new(sink);
    // As root it has to be told the user to run as. A file for each mail, named by a pattern of the
    // time; a backlog of 100.
    server
        .args(["-u", "root", "-d"])
        .arg(dir.join("mail.%H%M%S."))
        .args([&format!("127.0.0.1:{port}"), "100"]);
    let _sink = Killed(server.spawn().unwrap());
    until("smtp-sink listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    let output = hands_in(port, &[]);
    assert!(output.status.success(), "{output:?}");
    until("the mail is there", || texts(&dir.join("")).contains("hello"));
    let mail = texts(&dir.join("")).replace("\r\n", "\n");
    assert!(mail.contains("\n.\n..two\nhello\n"), "{mail}");
    assert!(mail.contains("ann@example.org") && mail.contains("bob@example.org"), "{mail}");
}

/// Postfix with what takes mails in, and nothing that delivers them: they are held in its queue.
struct Postfix {
    program: std::path::PathBuf,
    dir: TempDir,
    master: Option<Child>,
    port: u16,
}

impl Postfix {
    fn start(program: std::path::PathBuf, cert: &Path, key: &Path) -> Self {
        let (dir, port) = (TempDir::new(), free_port());
        let at = |name: &str| dir.join(name).display().to_string();
        for folder in ["conf", "queue", "data"] {
            fs::create_dir(dir.join(folder)).unwrap();
        }
        let (queue, data, cert, key) = (at("queue"), at("data"), cert.display(), key.display());
        let main = format!(
            "compatibility_level = 3.6\n\
             queue_directory = {queue}\n\
             data_directory = {data}\n\
             maillog_file = /dev/stdout\n\
             myhostname = mail.example.org\n\
             mydestination = example.org\n\
             inet_interfaces = 127.0.0.1\n\
             inet_protocols = ipv4\n\
             alias_maps =\n\
             local_recipient_maps =\n\
             smtpd_tls_security_level = encrypt\n\
             smtpd_tls_cert_file = {cert}\n\
             smtpd_tls_key_file = {key}\n\
             smtpd_recipient_restrictions = check_recipient_access static:HOLD, permit_mynetworks, reject\n"
        );
        let master = format!(
            "127.0.0.1:{port} inet n - n - - smtpd\n\
             cleanup unix n - n - 0 cleanup\n\
             qmgr unix n - n 300 1 qmgr\n\
             tlsmgr unix - - n 1000? 1 tlsmgr\n\
             rewrite unix - - n - - trivial-rewrite\n\
             proxymap unix - - n - - proxymap\n\
             anvil unix - - n - 1 anvil\n\
             postlog unix-dgram n - n - 1 postlogd\n"
        );
        fs::write(dir.join("conf/main.cf"), main).unwrap();
        fs::write(dir.join("conf/master.cf"), master).unwrap();
        // Its programs that are not root keep their files there.
        assert!(
            Command::new("chown").arg("postfix").arg(dir.join("data")).status().unwrap().success()
        );
        let mut postfix = Self { program, dir, master: None, port };
        postfix.master = Some(postfix.command("start-fg").spawn().unwrap());
        until("Postfix listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        postfix
    }

    fn command(&self, what: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("-c")
            .arg(self.dir.join("conf"))
            .arg(what)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        drop(self.command("abort").status());
        drop(self.master.take().map(|mut master| (master.kill(), master.wait())));
    }
}

#[test]
fn postfix_is_handed_a_mail_over_starttls_and_none_without_it_or_with_a_wrong_name() {
    let Some(program) = program("postfix") else { return };
    if !rustix::process::geteuid().is_root() {
        return support::skipped("no root for Postfix");
    }
    let (ca, folder) = (Ca::new(), Folder::new());
    let (roots, issued) = (folder.write("ca.pem", ca.pem()), ca.issue(["mail.example.org"]));
    let (cert, key) =
        (folder.write("cert.pem", &issued.cert), folder.write("key.pem", &issued.key));
    let postfix = Postfix::start(program, &cert, &key);
    let held = postfix.dir.join("queue/hold");
    let roots = roots.to_str().unwrap();
    let plain = hands_in(postfix.port, &[]);
    assert!(String::from_utf8_lossy(&plain.stderr).contains("STARTTLS"), "{plain:?}");
    let refused = hands_in(postfix.port, &["--ca", roots, "--name", "other.example.org"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not valid for name"), "{refused:?}");
    assert_eq!(fs::read_dir(&held).unwrap().count(), 0);
    let output = hands_in(postfix.port, &["--ca", roots, "--name", "mail.example.org"]);
    assert!(output.status.success(), "{output:?}");
    let files: Vec<_> = fs::read_dir(&held)
        .unwrap()
        .map(|entry| fs::read(entry.unwrap().path()).unwrap())
        .collect();
    assert_eq!(files.len(), 1);
    // A record for each line, behind its type and length.
    let text = String::from_utf8_lossy(&files[0]).into_owned();
    assert!(text.contains("(Postfix) with ESMTPS id "), "{text}");
    for line in ["N\u{1}.", "N\u{5}..two", "N\u{5}hello"] {
        assert!(text.contains(line), "{line:?} is not in {text}");
    }
}
