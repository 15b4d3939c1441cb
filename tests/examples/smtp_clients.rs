//! The smtp example and the clients the world has; many of them at once, and a drain amid their
//! mails.

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::support::{Example, PATIENCE, TempDir, command, program, skipped, until};

fn start() -> Example {
    let dir = TempDir::new();
    let mut command = command("smtp");
    command
        .args(["--max-size", "1000000", "--per-peer", "1000", "--maildir"])
        .arg(dir.join("mails"));
    Example::spawn(command, dir)
}

/// What is in the maildir, by the names of the files.
fn mails(example: &Example) -> HashMap<String, String> {
    let read = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap())
    };
    fs::read_dir(example.dir.join("mails/new")).unwrap().map(read).collect()
}

#[track_caller]
fn success(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn swaks_hands_in_its_mail_plain_encrypted_and_pipelined() {
    let Some(swaks) = program("swaks") else { return };
    if !Command::new("perl")
        .args(["-MNet::SSLeay", "-e", "1"])
        .output()
        .is_ok_and(|perl| perl.status.success())
    {
        return skipped("no Net::SSLeay");
    }
    let example = start();
    let ways: [&[&str]; 4] = [&[], &["--tls"], &["--pipeline"], &["--tls", "--pipeline"]];
    for (n, way) in ways.into_iter().enumerate() {
        let mut command = Command::new(&swaks);
        let server = example.tcp.to_string();
        command.args([
            "--server",
            &server,
            "--from",
            "a@x.example",
            "--to",
            "b@y.example,c@y.example",
        ]);
        command.args([
            "--helo",
            "swaks.example",
            "--timeout",
            "20",
            "--body",
            &format!("mail {n}\n.\n..\nend"),
        ]);
        let text = success(&command.args(way).output().unwrap());
        let id = text.lines().find_map(|line| line.split_once("250 2.0.0 kept as ")).unwrap().1;
        let mails = mails(&example);
        let mail = &mails[id];
        let with = if way.contains(&"--tls") { " with ESMTPS id " } else { " with ESMTP id " };
        assert!(
            mail.contains(with) && mail.contains(&format!("\r\nmail {n}\r\n.\r\n..\r\nend\r\n")),
            "{mail}"
        );
        assert_eq!(mails.len(), n + 1);
    }
}

const SESSION: &str = r"
import smtplib, ssl, sys

unverified = ssl.create_default_context()
unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
body = 'Subject: one\r\n\r\n.\r\n..\r\n\u00e4 line\r\n'.encode()

def refused(what, code):
    try:
        what()
    except smtplib.SMTPResponseException as error:
        assert error.smtp_code == code, error
    except smtplib.SMTPRecipientsRefused as error:
        assert all(answer[0] == code for answer in error.recipients.values()), error
    else:
        raise SystemExit('not refused')

with smtplib.SMTP('127.0.0.1', int(sys.argv[1]), local_hostname='py.example', timeout=20) as c:
    c.ehlo()
    assert c.has_extn('pipelining') and c.has_extn('8bitmime') and c.esmtp_features['size'] == '1000000'
    assert c.noop()[0] == 250 and c.verify('a')[0] == 252 and c.expn('a')[0] == 502
    assert c.sendmail('a@x', ['b@y', 'c@y'], body, mail_options=['BODY=8BITMIME']) == {}
    # As large as it may be said to be, but for the end of its last line.
    large = (b'x' * 98 + b'\r\n') * 9999 + b'x' * 100
    refused(lambda: c.sendmail('a@x', 'b@y', large), 552)
    refused(lambda: c.sendmail('a@x', 'b y', body), 501)
    refused(lambda: c.sendmail('a@x', 'b@y', body, mail_options=['AUTH=<>']), 555)
    assert c.help().startswith(b'2.0.0 EHLO')
    c.starttls(context=unverified)
    assert not c.has_extn('starttls')
    assert c.docmd('MAIL', 'FROM:<a@x>')[0] == 503
    c.ehlo()
    assert not c.has_extn('starttls') and c.docmd('STARTTLS')[0] == 503
    for _ in range(3):
        assert c.sendmail('a@x', 'b@y', body, mail_options=['SIZE=%d' % len(body)]) == {}
    assert c.rset()[0] == 250
# It sends all of a mail before it looks for an answer.
with smtplib.SMTP('127.0.0.1', int(sys.argv[1]), local_hostname='py.example', timeout=20) as c:
    refused(lambda: c.sendmail('a@x', 'b@y', b'y' * 70000 + b'\r\n' + (b'z' * 76 + b'\r\n') * 300000), 552)
print('well')
";

#[test]
fn a_session_of_smtplib_goes_well() {
    let Some(python) = program("python3") else { return };
    let example = start();
    let port = example.tcp.port().to_string();
    let output = Command::new(python).args(["-c", SESSION, &port]).output().unwrap();
    assert_eq!(success(&output), "well\n");
    let mails = mails(&example);
    assert!(
        mails
            .values()
            .all(|mail| mail.ends_with("\r\nSubject: one\r\n\r\n.\r\n..\r\n\u{e4} line\r\n")),
        "{mails:?}"
    );
    assert_eq!(mails.len(), 4);
    assert_eq!(mails.values().filter(|mail| mail.contains(" with ESMTPS id ")).count(), 3);
}

/// The system calls of a running example, as strace tells them.
struct Trace {
    strace: Child,
    calls: PathBuf,
}

impl Trace {
    /// `None` where no process may look at another.
    fn begin(example: &Example) -> Option<Self> {
        let strace = program("strace")?;
        if !Command::new(&strace)
            .args(["-qq", "-e", "trace=none", "true"])
            .output()
            .unwrap()
            .status
            .success()
        {
            skipped("no right to use strace");
            return None;
        }
        let calls = example.dir.join("calls");
        let pid = example.pid().as_raw_nonzero().to_string();
        let mut command = Command::new(strace);
        command.args([
            "-f",
            "-y",
            "-s",
            "64",
            "-e",
            "trace=fsync,renameat2,linkat,write,writev,sendto,sendmsg",
        ]);
        let strace =
            command.args(["-p", &pid, "-o"]).arg(&calls).stderr(Stdio::piped()).spawn().unwrap();
        let mut trace = Self { strace, calls };
        let mut attached = String::new();
        BufReader::new(trace.strace.stderr.as_mut().unwrap()).read_line(&mut attached).unwrap();
        assert!(attached.contains("attached"), "{attached}");
        Some(trace)
    }

    /// The calls up to one that says this.
    fn up_to(&self, said: &str) -> Vec<String> {
        until("strace has told it", || {
            fs::read_to_string(&self.calls).is_ok_and(|calls| calls.contains(said))
        });
        let calls = fs::read_to_string(&self.calls).unwrap();
        calls.lines().map(str::to_owned).collect()
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        drop(self.strace.kill());
        drop(self.strace.wait());
    }
}

#[test]
fn a_mail_and_its_name_are_on_the_disk_before_anybody_is_told() {
    let example = start();
    let Some(trace) = Trace::begin(&example) else { return };
    let mut sender = Sender::connect(example.tcp).unwrap();
    // One that is written at once, and one in pieces.
    for n in [1, 50] {
        let id = sender.mail(&content(n)).unwrap();
        let calls = trace.up_to(&format!("kept as {id}"));
        let steps = |call: &String| {
            let is = |name: &str, part: &str| call.contains(name) && call.contains(part);
            let step = match () {
                () if is("fsync(", "/mails/tmp/") => "file",
                () if is("(", &format!("/mails/new/{id}")) => "name",
                () if is("fsync(", "/mails/new>") => "folder",
                () if is("(", &format!("250 2.0.0 kept as {id}")) => "told",
                () => return None,
            };
            Some(step)
        };
        let mut steps: Vec<_> = calls.iter().filter_map(steps).collect();
        steps.drain(..steps.len().saturating_sub(4));
        assert_eq!(steps, ["file", "name", "folder", "told"], "{calls:#?}");
    }
}

/// A client that may meet the end at any moment.
struct Sender {
    stream: BufReader<TcpStream>,
}

impl Sender {
    fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE * 3))?;
        let mut sender = Self { stream: BufReader::new(stream) };
        sender.answer("220")?;
        sender.say("HELO x\r\n", "250")?;
        Ok(sender)
    }

    fn answer(&mut self, code: &str) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        if line.starts_with(code) && line.ends_with("\r\n") {
            Ok(line)
        } else {
            Err(io::Error::other(line))
        }
    }

    fn say(&mut self, text: &str, code: &str) -> io::Result<String> {
        self.stream.get_mut().write_all(text.as_bytes())?;
        self.answer(code)
    }

    /// The name the mail is kept by.
    fn mail(&mut self, content: &str) -> io::Result<String> {
        self.say("MAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nDATA\r\n", "250")?;
        self.answer("250")?;
        self.answer("354")?;
        let answer = self.say(&format!("{content}.\r\n"), "250")?;
        Ok(answer.trim_end().rsplit(' ').next().unwrap().to_owned())
    }
}

/// A mail like no other: now and then one that does not fit in memory.
fn content(n: usize) -> String {
    let lines = if n.is_multiple_of(50) { 4000 } else { n % 200 };
    format!(
        "Subject: {n}\r\n\r\n{}end of {n}\r\n",
        format!("a line of mail {n}, one of many\r\n").repeat(lines)
    )
}

/// That each is there once, whole.
#[track_caller]
fn assert_kept(mails: &HashMap<String, String>, accepted: &[(String, usize)]) {
    for (id, n) in accepted {
        let mail = mails.get(id).unwrap_or_else(|| panic!("{id} is not there"));
        let (_, kept) = mail.split_once("+0000\r\n").unwrap();
        assert!(kept == content(*n), "mail {n} is not whole");
    }
}

#[test]
fn each_of_1000_mails_in_parallel_is_in_the_maildir_once_and_whole() {
    // A thousand sockets here, and there a thousand with as many files.
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let example = start();
    let address = example.tcp;
    let send = |n| {
        thread::Builder::new().stack_size(256 * 1024).spawn(move || {
            let id = Sender::connect(address).and_then(|mut sender| sender.mail(&content(n)));
            (id.unwrap_or_else(|error| panic!("mail {n}: {error}")), n)
        })
    };
    let clients: Vec<_> = (0..1000).map(|n| send(n).unwrap()).collect();
    let accepted: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    let mails = mails(&example);
    assert_eq!(mails.len(), 1000);
    assert_kept(&mails, &accepted);
    assert_eq!(fs::read_dir(example.dir.join("mails/tmp")).unwrap().count(), 0);
}

#[test]
fn a_drain_amid_mails_loses_no_mail_that_got_its_250() {
    let mut example = start();
    let (address, count) = (example.tcp, AtomicUsize::new(0));
    let begin = |thread: usize, count: &AtomicUsize| {
        let mut accepted = Vec::new();
        let mut sender = Sender::connect(address).unwrap();
        // Until it ends, whenever that is.
        for n in thread * 1_000_000.. {
            match sender.mail(&content(n)) {
                Ok(id) => accepted.push((id, n)),
                Err(_) => break,
            }
            count.fetch_add(1, Ordering::Relaxed);
        }
        accepted
    };
    let accepted: Vec<(String, usize)> = thread::scope(|scope| {
        let (begin, count) = (&begin, &count);
        let clients: Vec<_> =
            (0..32).map(|thread| scope.spawn(move || begin(thread, count))).collect();
        until("many were accepted", || count.load(Ordering::Relaxed) > 300);
        example.terminate();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    assert!(example.wait().success());
    let mails = mails(&example);
    assert!(accepted.len() > 300);
    assert_kept(&mails, &accepted);
    // A mail whose 250 was not heard may be there too: one at most for each connection, and whole.
    assert!(
        (accepted.len()..=accepted.len() + 32).contains(&mails.len()),
        "{} of {}",
        accepted.len(),
        mails.len()
    );
    assert!(
        mails
            .values()
            .all(|mail| mail.lines().last().is_some_and(|line| line.starts_with("end of ")))
    );
    assert_eq!(fs::read_dir(example.dir.join("mails/tmp")).unwrap().count(), 0);
}
