//! The parts of the smtp example by themselves: the laws of its codec, its commands, and time.
#![allow(clippy::unwrap_used, dead_code)] // not all of the example is used here

mod support;

use std::fs;
use std::io::{Error as IoError, ErrorKind as IoErrorKind};
use std::sync::Arc;
use std::time::Duration;

use ropewalk::laws::Laws;
use ropewalk::{BytesMut, CodecError, Decoder, ReadDeadlineLayer, Server, StateLayer, TlsConfig, memory, session_with};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, split};
use tokio::join;
use tokio::time::{Instant, sleep};

#[path = "../examples/smtp/codec.rs"]
mod codec;
#[path = "../examples/smtp/command.rs"]
mod command;
#[path = "../examples/smtp/maildir.rs"]
mod maildir;
#[path = "../examples/smtp/session.rs"]
mod session;

use self::codec::{Frame, Smtp};
use self::command::{Command, parse};
use self::maildir::Maildir;
use self::session::{Config, in_trouble, smtp};
use self::support::{TempDir, segmentations};

/// A line `DATA` is taken for the command.
struct Switching(Smtp);

impl Switching {
    fn switch(&mut self, frame: Option<Frame>) -> Option<Frame> {
        if frame == Some(Frame::Command("DATA".into())) {
            self.0.expect_data();
        }
        frame
    }
}

impl Decoder for Switching {
    type Item = Frame;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, CodecError> {
        let frame = self.0.decode(src)?;
        Ok(self.switch(frame))
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, CodecError> {
        let frame = self.0.decode_eof(src)?;
        Ok(self.switch(frame))
    }
}

fn join(all: &mut Frame, next: Frame) -> Option<Frame> {
    match (all, next) {
        (Frame::Data(all), Frame::Data(next)) => {
            *all = [&all[..], &next[..]].concat().into();
            None
        }
        (_, next) => Some(next),
    }
}

#[test]
fn the_codec_keeps_the_laws() {
    let streams = [
        "NOOP\r\nDATA\r\none\r\n..two\r\n...\r\n.three\r\n\r\n.\r\nQUIT\r\n",
        "DATA\r\n.\r\nDATA\r\n..\r\n.\r\nDATA\r\n\r\n.\r\n",
        "DATA\r\na\n.\nb\r\n.\r\nQUIT\r\n",
        "DATA\r\na\r\n.\nb\r\n.\r\n",
        "DATA\r\na\r\n.\rb\r\n.\r\n",
        "DATA\r\na\r\r\n.\r\n",
        "DATA\r\na\n",
        "DATA\r\n\r",
        "DATA\r\nno end\r\n.",
        "DATA\r\nno end\r\n.\r",
        "DATA\r\nno end\r\n",
        "half a li",
    ];
    let long = format!("{}\r\nDATA\r\n{}\r\n.\r\n", "x".repeat(3000), "y".repeat(3000));
    let laws = Laws::new(|| Switching(Smtp::new())).streams(streams).streams([long]);
    laws.merge(join).limit(2048).window(8).variants(300).check();
}

/// What a mail's data come to: its content if it ended, and what is left behind it.
fn mail(pieces: &[&[u8]]) -> Result<(Vec<u8>, Vec<u8>), String> {
    let (mut codec, mut buffer, mut content, mut ended) = (Smtp::new(), BytesMut::new(), Vec::new(), false);
    codec.expect_data();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while !ended && let Some(frame) = codec.decode(&mut buffer).map_err(|error| error.to_string())? {
            match frame {
                Frame::Data(data) => content.extend_from_slice(&data),
                Frame::End => ended = true,
                Frame::Command(line) => return Err(format!("a command: {line:?}")),
            }
        }
    }
    if ended { Ok((content, buffer.to_vec())) } else { Err("no end".into()) }
}

#[test]
fn a_mail_ends_with_its_dot_and_loses_those_put_before_its_lines_however_it_is_cut() {
    let data = b"\r\n..\r\n...a\r\n.b\r\nc.\r\n.d.\r\n\r\n.\r\nQUIT\r\n";
    for pieces in segmentations(data) {
        let (content, rest) = mail(&pieces).unwrap();
        assert_eq!(content.escape_ascii().to_string(), r"\r\n.\r\n..a\r\nb\r\nc.\r\nd.\r\n\r\n");
        assert_eq!(rest, b"QUIT\r\n");
    }
}

#[test]
fn no_other_end_of_data_is_one_however_it_is_cut() {
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
            assert_eq!(mail(&pieces).unwrap_err(), "a CR or LF by itself", "{end:?}");
        }
    }
}

#[test]
fn wrong_line_ends_are_known_at_once() {
    // No more of the line has to come.
    assert_eq!(mail(&[b"a\n"]).unwrap_err(), "a CR or LF by itself");
    assert_eq!(mail(&[b"a\r", b"b"]).unwrap_err(), "a CR or LF by itself");
    assert_eq!(mail(&[b"a\r"]).unwrap_err(), "no end");
}

#[test]
fn commands_are_what_the_rfc_says_they_are() {
    let mail = |from: &str, size| Ok(Command::Mail { from: from.to_owned(), size });
    let rcpt = |to: &str| Ok(Command::Rcpt { to: to.to_owned() });
    for (line, command) in [
        ("ehlo [IPv6:::1]", Ok(Command::Hello { name: "[IPv6:::1]".into(), extended: true })),
        ("HELO a-1.example", Ok(Command::Hello { name: "a-1.example".into(), extended: false })),
        ("MAIL FROM:<>", mail("", None)),
        ("mail from: <a+b@x.org> size=10 BODY=8bitmime", mail("a+b@x.org", Some(10))),
        ("MAIL FROM:<\"a @>\\\"b\"@x> BODY=7BIT ", mail("\"a @>\\\"b\"@x", None)),
        ("RCPT TO:<@one,@two:a@x>", rcpt("a@x")),
        ("RCPT TO:<PostMaster>", rcpt("PostMaster")),
        ("RCPT TO:<a@[127.0.0.1]>", rcpt("a@[127.0.0.1]")),
        ("Data ", Ok(Command::Data)),
        ("noop whatever", Ok(Command::Noop)),
    ] {
        assert_eq!(parse(line.as_bytes()), command, "{line:?}");
    }
}

#[test]
fn what_is_no_command_is_refused_with_the_code_for_it() {
    let long = format!("RCPT TO:<{}@x>", "a".repeat(65));
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
        ("MAIL FROM:<a@x> BODY=BINARYMIME", "501"),
        ("MAIL FROM:<a@x> SMTPUTF8", "555"),
        ("MAIL TO:<a@x>", "501"),
        ("RCPT TO:<>", "501"),
        ("RCPT TO:<a@>", "501"),
        ("RCPT TO:<@x>", "501"),
        ("RCPT TO:<.a@x>", "501"),
        ("RCPT TO:<\"a\"b\"@x>", "501"),
        ("RCPT TO:<\"a\\\"@x>", "501"),
        ("RCPT TO:<a@b@c>", "501"),
        ("RCPT TO:<a@x> NOTIFY=NEVER", "555"),
        (&long, "501"),
        ("DATA now", "501"),
        ("QUIT now", "501"),
        ("VRFY", "501"),
        ("EXPN x", "502"),
        ("BDAT 10", "502"),
        ("RSET\nQUIT", "500"),
        ("RSET\rQUIT", "500"),
        ("NOOP \u{e4}", "500"),
    ] {
        let refusal = parse(line.as_bytes()).unwrap_err();
        assert_eq!(&refusal[..3], code, "{line:?}: {refusal}");
    }
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
    let maildir = Arc::new(Maildir::open(dir.join("mails"), "x/y:z").unwrap());
    let tls = TlsConfig::files("none", "none");
    let config = Config { name: "x".into(), domains: Vec::new(), max_size: 10_000, tls, maildir };
    let deadlines = ReadDeadlineLayer::new().first_frame(patience).frame(patience).idle(patience);
    let server = Server::new().listen(endpoint).layer(deadlines).layer(StateLayer::new(Arc::new(config)));
    tokio::spawn(server.serve(session_with(Smtp::new(), smtp)).into_future());
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
        assert!((PATIENCE..PATIENCE * 2).contains(&began.elapsed()), "{said:?}: {:?}", began.elapsed());
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
