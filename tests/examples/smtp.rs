//! The smtp example, driven from outside: what RFC 5321 says of a receiver, and its limits.

use std::fs;
use std::path::Path;

use rustix::process::Signal;

use crate::support::{Client, Example, TempDir, command, segmentations, until};

/// Of the greeting and the answer to EHLO.
pub(super) const HELLO: &str = "220 mx.example ESMTP\r\n250-mx.example\r\n250-SIZE 100000\r\n250-STARTTLS\r\n250-PIPELINING\r\n\
    250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n";

pub(super) fn start_with(args: &[&str]) -> Example {
    let dir = TempDir::new();
    let mut command = command("smtp");
    command.args(["--name", "mx.example", "--maildir"]).arg(dir.join("mails")).args(args);
    Example::spawn(command, dir)
}

pub(super) fn start() -> Example {
    start_with(&["--max-size", "100000"])
}

/// The contents of the files in one of a maildir's folders.
pub(super) fn folder(example: &Example, name: &str) -> Vec<String> {
    let entries = fs::read_dir(example.dir.join("mails").join(name)).unwrap();
    let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
    entries.map(|entry| read(&entry.unwrap().path())).collect()
}

pub(super) fn hello(mut client: Client) -> Client {
    client.ask("EHLO client.example\r\n", HELLO);
    client
}

/// Sends lines and checks the code, and the extended one, of each answer.
#[track_caller]
pub(super) fn ask(client: &mut Client, pairs: &[(&str, &str)]) {
    for (line, code) in pairs {
        client.send(format!("{line}\r\n"));
        let answer = client.line();
        assert!(
            answer.starts_with(code) && answer.ends_with("\r\n"),
            "{answer:?} to {line:?}, not {code}"
        );
    }
}

pub(super) const BEGIN: [(&str, &str); 3] = [
    ("MAIL FROM:<a@x.example>", "250 2.1.0 "),
    ("RCPT TO:<b@y.example>", "250 2.1.5 "),
    ("DATA", "354 "),
];

#[test]
fn a_mail_is_kept_as_it_came_behind_the_headers_that_say_how() {
    for pieces in
        segmentations("Subject: \u{e4}\r\n\r\n..dot\r\n...\r\nlast \0\r\n.\r\nQUIT\r\n".as_bytes())
    {
        let example = start();
        let mut client = hello(example.tcp());
        ask(&mut client, &BEGIN);
        client.send_pieces(&pieces);
        assert!(client.line().starts_with("250 2.0.0 kept as "));
        assert_eq!(client.rest(), b"221 2.0.0 bye\r\n");
        let mails = folder(&example, "new");
        let (head, body) = mails[0].split_once("Subject: ").unwrap();
        assert_eq!(body, "\u{e4}\r\n\r\n.dot\r\n..\r\nlast \0\r\n");
        let head: Vec<&str> = head.split("\r\n").collect();
        assert_eq!(head[..2], ["Return-Path: <a@x.example>", "Delivered-To: b@y.example"]);
        assert_eq!(head[2], "Received: from client.example ([127.0.0.1])");
        assert!(
            head[3].starts_with("\tby mx.example with ESMTP id ")
                && head[3].ends_with(".mx.example;"),
            "{head:?}"
        );
        assert!(head[4].starts_with('\t') && head[4].ends_with(" +0000"), "{head:?}");
        assert_eq!((mails.len(), head.len(), head[5]), (1, 6, ""));
    }
}

#[test]
fn a_burst_of_commands_is_answered_in_order() {
    let example = start();
    for mut client in example.both() {
        let mail =
            "MAIL FROM:<> SIZE=5\r\nRCPT TO:<b@y>\r\nRCPT TO:<Postmaster>\r\nDATA\r\nhi\r\n.\r\n";
        client.send(format!("EHLO y\r\n{mail}{mail}RSET\r\nNOOP\r\nQUIT\r\n"));
        client.finish();
        let answers = String::from_utf8(client.rest()).unwrap();
        let answers = answers.strip_prefix(HELLO).unwrap();
        let codes: Vec<&str> = answers.lines().map(|line| &line[..3]).collect();
        let mail = ["250", "250", "250", "354", "250"];
        assert_eq!(codes, [&mail[..], &mail, &["250", "250", "221"]].concat());
    }
    assert_eq!(folder(&example, "new").len(), 4);
}

#[test]
fn each_command_out_of_its_order_is_told_so_and_the_connection_goes_on() {
    let example = start();
    let mut client = example.tcp();
    client.expect("220 mx.example ESMTP\r\n");
    let too_early = [
        ("MAIL FROM:<a@x>", "503 5.5.1 "),
        ("RCPT TO:<a@x>", "503 5.5.1 "),
        ("DATA", "503 5.5.1 "),
    ];
    ask(&mut client, &too_early);
    ask(
        &mut client,
        &[("HELO y", "250 mx.example"), ("DATA", "503 5.5.1 "), ("RCPT TO:<a@x>", "503 5.5.1 ")],
    );
    ask(
        &mut client,
        &[
            ("MAIL FROM:<a@x>", "250 2.1.0 "),
            ("MAIL FROM:<a@x>", "503 5.5.1 "),
            ("DATA", "554 5.5.1 "),
        ],
    );
    ask(
        &mut client,
        &[("RCPT TO:<a@x>", "250 2.1.5 "), ("RSET", "250 2.0.0 "), ("RCPT TO:<a@x>", "503 5.5.1 ")],
    );
    // A new greeting forgets the mail as well.
    ask(
        &mut client,
        &[("MAIL FROM:<a@x>", "250 2.1.0 "), ("HELO z", "250 "), ("RCPT TO:<a@x>", "503 5.5.1 ")],
    );
    ask(
        &mut client,
        &[("VRFY a", "252 2.1.5 "), ("NOOP x", "250 2.0.0 "), ("EXPN a", "502 5.5.1 ")],
    );
    ask(&mut client, &BEGIN);
    ask(&mut client, &[(".", "250 2.0.0 "), ("DATA", "503 5.5.1 "), ("QUIT", "221 2.0.0 ")]);
    assert_eq!(client.rest(), b"");
    assert!(folder(&example, "new")[0].contains(" with SMTP id "));
}

#[test]
fn a_mail_that_is_too_large_is_refused_announced_or_not_and_the_connection_goes_on() {
    let example = start();
    let mut client = hello(example.tcp());
    ask(&mut client, &[("MAIL FROM:<a@x> SIZE=100001", "552 5.3.4 "), ("RCPT TO:<b@y>", "503 ")]);
    let line = "x".repeat(98) + "\r\n";
    for (lines, code) in [(1001, "552 5.3.4 "), (5000, "552 5.3.4 "), (1000, "250 2.0.0 ")] {
        ask(&mut client, &BEGIN);
        client.send(line.repeat(lines));
        ask(&mut client, &[(".", code)]);
    }
    let mails = folder(&example, "new");
    assert_eq!(mails.len(), 1);
    assert!(mails[0].ends_with(&line.repeat(1000)));
    // The parts of the other mails that were on the disk are gone.
    until("tmp is empty", || folder(&example, "tmp").is_empty());
}

#[test]
fn limits_of_lines_recipients_and_commands_have_their_codes() {
    let example = start();
    let mut client = hello(example.tcp());
    let long = "x".repeat(3000);
    ask(&mut client, &[(&long, "500 5.5.2 "), ("MAIL FROM:<a@x>", "250 ")]);
    for n in 0..100 {
        ask(&mut client, &[(&format!("RCPT TO:<b{n}@y>"), "250 ")]);
    }
    ask(&mut client, &[("RCPT TO:<b@y>", "452 4.5.3 "), ("DATA", "354 "), (".", "250 2.0.0 ")]);
    assert_eq!(folder(&example, "new")[0].matches("Delivered-To: ").count(), 100);
    // These become a mail; the following ones don't.
    client.send("NOOP\r\n".repeat(600));
    let answers = String::from_utf8(client.rest()).unwrap();
    assert_eq!(answers.matches("250 2.0.0 ").count(), 500);
    assert!(answers.lines().last().unwrap().starts_with("421 4.7.0 "), "{answers}");
}

#[test]
fn mail_for_others_is_refused_and_one_for_the_postmaster_never() {
    let example =
        start_with(&["--max-size", "100000", "--domain", "y.example", "--domain", "z.example"]);
    let mut client = hello(example.tcp());
    ask(
        &mut client,
        &[("MAIL FROM:<a@x>", "250 "), ("RCPT TO:<b@x.example>", "550 5.7.1 "), ("DATA", "554 ")],
    );
    ask(
        &mut client,
        &[("RCPT TO:<b@Z.Example>", "250 "), ("RCPT TO:<postmaster>", "250 "), ("DATA", "354 ")],
    );
}

#[test]
fn one_connection_too_many_is_told_421() {
    let example = start_with(&["--max-size", "100000", "--connections", "1"]);
    let _first = hello(example.tcp());
    assert_eq!(example.unix().rest(), b"421 4.7.0 too many connections, come back later\r\n");
}

#[test]
fn a_second_mail_smuggled_into_a_first_is_refused_with_it() {
    let example = start();
    for end in [
        "\n.\n",
        "\n.\r\n",
        "\r\n.\n",
        "\r.\r",
        "\r.\r\n",
        "\r\n.\r",
        "\r\n\n.\r\n",
        "\r\r\n.\r\n",
        "\n.\r",
    ] {
        for mut client in example.both() {
            client = hello(client);
            ask(&mut client, &BEGIN);
            client.send(format!(
                "Subject: a\r\n\r\nb{end}MAIL FROM:<admin@y>\r\nRCPT TO:<b@y>\r\nDATA\r\nevil\r\n.\r\nQUIT\r\n"
            ));
            let rest = String::from_utf8(client.rest()).unwrap();
            assert!(
                rest.starts_with("554 5.6.0 ") && rest.lines().count() == 1,
                "{rest:?} for {end:?}"
            );
        }
    }
    assert_eq!(folder(&example, "new"), [""; 0]);
}

#[test]
fn a_client_that_ends_data_with_bare_lf_is_refused_at_once() {
    let example = start();
    let mut client = hello(example.tcp());
    ask(&mut client, &BEGIN);
    // And waits for an answer.
    client.send("hi\n.\n");
    assert!(client.rest().starts_with(b"554 5.6.0 "));
}

#[test]
fn a_refusal_amid_a_mail_reaches_a_client_that_sends_all_of_it_first() {
    let example = start();
    let rest = ("z".repeat(76) + "\r\n").repeat(300_000);
    for (line, refusal) in [
        ("y".repeat(70_000) + "\r\n", "552 5.3.4 "),
        ("x\n".into(), "554 5.6.0 "),
        ("x\r\r\n".into(), "554 5.6.0 "),
    ] {
        for mut client in example.both() {
            client = hello(client);
            ask(&mut client, &BEGIN);
            client.send(format!("Subject: x\r\n\r\n{line}{rest}"));
            client.send(".\r\nQUIT\r\n");
            let answer = String::from_utf8(client.rest()).unwrap();
            assert!(answer.starts_with(refusal) && answer.lines().count() == 1, "{answer:?}");
        }
    }
    assert_eq!(folder(&example, "new"), [""; 0]);
    until("tmp is empty", || folder(&example, "tmp").is_empty());
}

#[test]
fn drafts_that_a_kill_has_left_are_removed_at_the_next_start_and_no_others() {
    let dir = TempDir::new();
    let mails = dir.join("mails");
    let spawn = |dir: TempDir| {
        let mut command = command("smtp");
        command.args(["--name", "mx.example", "--maildir"]).arg(&mails);
        Example::spawn(command, dir)
    };
    let drafts = || {
        fs::read_dir(mails.join("tmp"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect::<Vec<_>>()
    };
    let begin = |example: &Example| {
        let mut client = example.tcp();
        client.send("EHLO y\r\n");
        while !client.line().starts_with("250 ENHANCED") {}
        ask(&mut client, &BEGIN);
        client
    };
    let killed = spawn(TempDir::new());
    let _client = begin(&killed);
    until("there is a draft", || drafts().len() == 1);
    killed.signal(Signal::KILL);
    drop(killed);
    assert_eq!(drafts().len(), 1);
    let foreign = ["1700000000.P1Q1.mx.example", "1700000000.R0123456789.mx.example", "notes"];
    foreign.iter().for_each(|name| fs::write(mails.join("tmp").join(name), "").unwrap());
    // This one lives, as one does that is being restarted.
    let alive = spawn(TempDir::new());
    assert_eq!(drafts().len(), foreign.len());
    let mut client = begin(&alive);
    until("there is a draft", || drafts().len() == foreign.len() + 1);
    let successor = spawn(dir);
    assert_eq!(drafts().len(), foreign.len() + 1);
    ask(&mut client, &[("hi\r\n.", "250 2.0.0 kept as ")]);
    assert_eq!(fs::read_dir(mails.join("new")).unwrap().count(), 1);
    assert_eq!(drafts().len(), foreign.len());
    drop(successor);
}

#[test]
fn one_address_has_so_many_connections_and_no_more() {
    let example = start_with(&["--max-size", "100000", "--per-peer", "2"]);
    let mut clients = [(); 2].map(|()| hello(example.tcp()));
    assert_eq!(example.tcp().rest(), b"421 4.7.0 too many connections from your address\r\n");
    hello(example.unix());
    ask(&mut clients[1], &[("QUIT", "221 ")]);
}

#[test]
fn a_request_of_http_is_not_obeyed() {
    let example = start();
    for mut client in example.both() {
        client.send(
            "POST / HTTP/1.1\r\nHost: x\r\n\r\nHELO y\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nDATA\r\nevil\r\n.\r\n",
        );
        assert_eq!(client.rest(), b"220 mx.example ESMTP\r\n421 4.7.0 this is SMTP\r\n");
    }
    assert_eq!(folder(&example, "new"), [""; 0]);
}
