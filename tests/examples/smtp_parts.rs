//! The smtp example within this process: its commands, its data, and time.
#![allow(dead_code)] // not all of the example is used here

use std::fs;
use std::io::{Error as IoError, ErrorKind as IoErrorKind};
use std::sync::Arc;
use std::time::Duration;

use ropewalk::{ReadDeadlineLayer, Server, StateLayer, TlsConfig, memory, session_with};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader, split};
use tokio::join;
use tokio::time::{Instant, sleep};

#[rustfmt::skip]
#[path = "../../examples/smtp/maildir.rs"]
mod maildir;
#[rustfmt::skip]
#[path = "../../examples/smtp/session.rs"]
mod session;

use self::maildir::Maildir;
use self::session::{Config, in_trouble, lines, smtp};

use crate::support::{TempDir, segmentations};

/// What is said in answer to `lines`, one by one.
async fn answers(lines: &[&str]) -> Vec<String> {
    let (client, _dir) = client(PATIENCE).await;
    let (answers, mut client) = split(client);
    let mut answers = BufReader::new(answers).lines();
    let mut last = Vec::new();
    for line in ["EHLO y"].iter().chain(lines) {
        client.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
        let is_last = |answer: &String| answer.as_bytes()[3] == b' ' && !answer.ends_with("ESMTP");
        let mut answer = answers.next_line().await.unwrap().unwrap();
        while !is_last(&answer) {
            answer = answers.next_line().await.unwrap().unwrap();
        }
        last.push(answer);
    }
    last.split_off(1)
}

/// What comes of a mail's data: what is told of it, and its content if it was kept.
async fn mail(pieces: &[&[u8]]) -> (String, Option<String>) {
    let (client, dir) = client(PATIENCE).await;
    let (mut answers, mut client) = split(client);
    let talk = async {
        client.write_all(BEGIN.as_bytes()).await.unwrap();
        for piece in pieces {
            // It may have heard enough.
            drop(client.write_all(piece).await);
        }
    };
    let (told, ()) = join!(last_line(&mut answers), talk);
    let content = mails(&dir, "new").first().map(|name| {
        let mail = fs::read_to_string(dir.join("mails/new").join(name)).unwrap();
        mail.split_once(" +0000\r\n").unwrap().1.to_owned()
    });
    (told, content)
}

#[tokio::test]
async fn a_mail_ends_with_its_dot_and_loses_its_stuffed_dots_however_it_is_cut() {
    let data = b"\r\n..\r\n...a\r\n.b\r\nc.\r\n.d.\r\n\r\n.\r\nQUIT\r\n";
    for pieces in segmentations(data) {
        let (told, content) = mail(&pieces).await;
        assert_eq!(told, "221 2.0.0 bye");
        assert_eq!(content.unwrap(), "\r\n.\r\n..a\r\nb\r\nc.\r\nd.\r\n\r\n");
    }
}

#[tokio::test]
async fn no_other_end_of_data_is_one_however_it_is_cut() {
    for end in [
        "\n.\n",
        "\n.\r\n",
        "\r\n.\n",
        "\r.\r",
        "\r.\r\n",
        "\r\n.\r",
        "\r\n.\r\r\n",
        "\r\n\n.\r\n",
        "\r\r\n.\r\n",
        "\n.\r",
        "\r.\n",
        "\0\n.\r\n",
    ] {
        let data = format!("Subject: a\r\n\r\nb{end}MAIL FROM:<admin@example.org>\r\n");
        for pieces in segmentations(data.as_bytes()) {
            let (told, content) = mail(&pieces).await;
            assert!(told.starts_with("554 5.6.0 a CR or LF by itself"), "{told:?} for {end:?}");
            assert_eq!(content, None);
        }
    }
}

#[tokio::test]
async fn a_line_of_data_that_is_too_long_refuses_the_mail_and_all_that_may_be_smuggled_behind_it() {
    let longest = "x".repeat(65_535);
    let (told, content) = mail(&[longest.as_bytes(), b"\r\n.\r\nQUIT\r\n"]).await;
    assert_eq!(
        (told.as_str(), content.map(|mail| mail.len())),
        ("221 2.0.0 bye", Some(longest.len() + 2))
    );
    for end in ["\r\n.\r\n", "\n.\r\n"] {
        let behind = format!("{end}MAIL FROM:<>\r\nRCPT TO:<b@x>\r\nDATA\r\nsmuggled\r\n.\r\n");
        let (told, content) = mail(&[longest.as_bytes(), b"xx", behind.as_bytes()]).await;
        assert!(told.starts_with("552 5.3.4 a line "), "{told:?} for {end:?}");
        assert_eq!(content, None);
    }
}

#[tokio::test]
async fn commands_are_parsed_as_the_rfc_defines_them() {
    for line in [
        "ehlo [IPv6:::1]",
        "HELO a-1.example",
        "MAIL FROM:<>",
        "mail from: <a+b@x.org> size=10 BODY=8bitmime",
        "MAIL FROM:<\"a @>\\\"b\"@x> BODY=7BIT ",
        "RCPT TO:<@one,@two:a@x>",
        "RCPT TO:<PostMaster>",
        "RCPT TO:<a@[127.0.0.1]>",
        "RCPT TO:<a@[IPv6:::1]>",
        "MAIL FROM:<a..b@docomo.example>",
        "MAIL FROM:<.a.@docomo.example> SIZE=1",
        "RCPT TO:<a..b.@docomo.example>",
        "RCPT TO:<\"a>b\"@x>",
        "RCPT TO:<\"\\\\\"@x>",
        "RCPT TO:<o'brien+x=y/z!%#@a_b.example>",
        &format!("MAIL FROM:<reply+{}@x>", "A2B3".repeat(60)),
        &format!("RCPT TO:<{}@x>", "a".repeat(1022)),
        "EHLO [IPv6:fe80::1%eth0]",
        "noop whatever",
    ] {
        let before = if line.starts_with("RCPT") { "MAIL FROM:<>" } else { "NOOP" };
        let answer = &answers(&[before, line]).await[1];
        assert!(answer.starts_with("250 "), "{line:?}: {answer}");
    }
    assert!(answers(&["MAIL FROM:<>", "RCPT TO:<b@x>", "Data "]).await[2].starts_with("354 "));
    for quit in ["quit", "QUIT "] {
        assert!(answers(&[quit]).await[0].starts_with("221 "), "{quit:?}");
    }
}

#[tokio::test]
async fn an_invalid_command_is_refused_with_its_code() {
    let long = format!("RCPT TO:<{}@x>", "a".repeat(1023));
    for (line, code) in [
        ("", "500"),
        ("FROB", "500"),
        ("EHLO", "501"),
        ("EHLO two names", "501"),
        ("HELO (x)", "501"),
        ("MAIL", "501"),
        ("MAIL FROM:a@x", "501"),
        ("MAIL FROM:<a@x", "501"),
        ("MAIL FROM:<a>", "501"),
        ("MAIL FROM:<a b@x>", "501"),
        ("MAIL FROM:<a@x>SIZE=1", "501"),
        ("MAIL FROM:<a@x> SIZE=x", "501"),
        ("MAIL FROM:<a@x> SIZE=99999999999999999999", "501"),
        ("MAIL FROM:<a@x> SIZE=100001", "552"),
        ("MAIL FROM:<a@x> BODY=BINARYMIME", "501"),
        ("MAIL FROM:<a@x> SMTPUTF8", "555"),
        ("MAIL FROM:<a@x> AUTH=<>", "555"),
        ("MAIL FROM:<a@x> SIZE=1 AUTH=<b@y>", "555"),
        ("MAIL FROM:<> RET=HDRS ENVID=1", "555"),
        ("MAIL FROM:<a@x>>", "501"),
        ("MAIL FROM:<\"a>@x", "501"),
        ("MAIL TO:<a@x>", "501"),
        ("RCPT TO:<>", "501"),
        ("RCPT TO:<a@>", "501"),
        ("RCPT TO:<@x>", "501"),
        ("RCPT TO:<a@x.>", "501"),
        ("RCPT TO:<a@[]>", "501"),
        ("RCPT TO:<a,b@x>", "501"),
        ("RCPT TO:<a\\@x>", "501"),
        ("RCPT TO:<\"a\"b\"@x>", "501"),
        ("RCPT TO:<\"a\\\"@x>", "501"),
        ("RCPT TO:<a@b@c>", "501"),
        ("RCPT TO:<a@x> NOTIFY=NEVER", "555"),
        ("RCPT TO:<a@x> ORCPT=rfc822;<a@x>", "555"),
        ("HELP", "214"),
        (&long, "501"),
        ("DATA now", "501"),
        ("QUIT now", "501"),
        ("VRFY", "501"),
        ("EXPN x", "502"),
        ("BDAT 10", "502"),
        ("RSET\rQUIT", "500"),
        ("RSET\r", "500"),
        ("NOOP \u{e4}", "500"),
    ] {
        let answer = &answers(&[line]).await[0];
        assert!(answer.starts_with(code), "{line:?}: {answer}");
    }
    // Two lines to a server that takes an LF for an end: neither is obeyed.
    let (mut client, _dir) = client(PATIENCE).await;
    client.write_all(b"EHLO y\nQUIT\nQUIT\r\n").await.unwrap();
    let mut told = String::new();
    client.read_to_string(&mut told).await.unwrap();
    let codes: Vec<&str> = told.lines().map(|line| &line[..3]).collect();
    assert_eq!(codes, ["220", "500", "500", "221"]);
}

#[test]
fn a_full_disk_and_other_trouble_have_their_codes() {
    for kind in [IoErrorKind::StorageFull, IoErrorKind::QuotaExceeded] {
        assert_eq!(in_trouble(&IoError::from(kind))[..3], *"452");
    }
    assert_eq!(in_trouble(&IoError::from(IoErrorKind::NotFound))[..3], *"451");
}

/// A server and a client, both in this process; and where its mails go.
async fn client(patience: Duration) -> (memory::MemoryStream, TempDir) {
    let dir = TempDir::new();
    let (endpoint, connector) = memory::endpoint();
    let maildir = Maildir::open(dir.join("mails"), "x/y:z").unwrap();
    let tls = TlsConfig::files("none", "none");
    let config = Config { name: "x".into(), domains: Vec::new(), max_size: 100_000, tls, maildir };
    let deadlines = ReadDeadlineLayer::new().first_frame(patience).frame(patience).idle(patience);
    let server =
        Server::new().listen(endpoint).layer(deadlines).layer(StateLayer::new(Arc::new(config)));
    tokio::spawn(server.serve(session_with(lines(), smtp)).into_future());
    (connector.connect().await.unwrap(), dir)
}

const PATIENCE: Duration = Duration::from_secs(300);
const BEGIN: &str = "EHLO y\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n";

/// All that is said up to the end.
async fn last_line(client: &mut (impl AsyncRead + Unpin)) -> String {
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    text.lines().last().unwrap_or_default().to_owned()
}

fn mails(dir: &TempDir, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(dir.join("mails").join(folder)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn silence_is_told_421_wherever_it_falls() {
    let in_data = format!("{BEGIN}a li");
    let at_a_dot = format!("{BEGIN}a line\r\n.");
    for said in ["", "EHL", "EHLO y\r\n", BEGIN, &in_data, &at_a_dot] {
        let (mut client, dir) = client(PATIENCE).await;
        client.write_all(said.as_bytes()).await.unwrap();
        let began = Instant::now();
        assert_eq!(last_line(&mut client).await, "421 4.4.2 that took too long", "{said:?}");
        assert!(
            (PATIENCE..PATIENCE * 2).contains(&began.elapsed()),
            "{said:?}: {:?}",
            began.elapsed()
        );
        assert_eq!(mails(&dir, "new"), [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_mail_that_trickles_in_has_a_deadline_for_all_of_it() {
    let (client, dir) = client(PATIENCE).await;
    let (mut answers, mut client) = split(client);
    client.write_all(BEGIN.as_bytes()).await.unwrap();
    let began = Instant::now();
    let trickle = async {
        while client.write_all(b"x\r\n").await.is_ok() {
            sleep(Duration::from_secs(290)).await;
            assert!(began.elapsed() < Duration::from_secs(2 * 60 * 60));
        }
    };
    let (last, ()) = join!(last_line(&mut answers), trickle);
    assert_eq!(last, "421 4.4.2 that took too long");
    assert!(began.elapsed() >= Duration::from_secs(60 * 60), "{:?}", began.elapsed());
    assert_eq!(mails(&dir, "new"), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn the_name_of_a_mail_is_that_of_no_other_and_no_path() {
    let (mut client, dir) = client(PATIENCE).await;
    let mail = "MAIL FROM:<>\r\nRCPT TO:<b@x>\r\nDATA\r\nhi\r\n.\r\n";
    client.write_all(format!("EHLO y\r\n{mail}{mail}QUIT\r\n").as_bytes()).await.unwrap();
    assert_eq!(last_line(&mut client).await, "221 2.0.0 bye");
    let names = mails(&dir, "new");
    assert_eq!(names.len(), 2);
    assert!(names.iter().all(|name| name.ends_with(r".x\057y\072z")), "{names:?}");
    assert_eq!(mails(&dir, "tmp"), [""; 0]);
}
