//! The smtp example where things end early: connections, disks, memory, the server.

use std::fs;
use std::thread;

use super::smtp::{BEGIN, ask, folder, hello, start, start_with};
use crate::support::{Example, acknowledged, until};

#[test]
fn plaintext_behind_starttls_is_refused_and_never_obeyed() {
    let example = start();
    for behind in ["RSET\r\n", "MAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nDATA\r\nevil\r\n.\r\n", "Q"] {
        for mut client in example.both() {
            client = hello(client);
            client.send(format!("STARTTLS\r\n{behind}"));
            assert_eq!(client.rest(), b"220 2.0.0 go ahead\r\n", "{behind:?}");
        }
    }
    assert_eq!(folder(&example, "new"), [""; 0]);
}

#[test]
fn a_mail_that_was_cut_off_is_not_delivered() {
    let example = start();
    for data in
        ["hi\r\n".to_owned(), "hi\r\n.".to_owned(), "hi\r\n.\r".to_owned(), "x\r\n".repeat(33_000)]
    {
        let mut client = hello(example.tcp());
        ask(&mut client, &BEGIN);
        client.send(data);
        client.finish();
        assert_eq!(client.rest(), b"");
    }
    assert_eq!(folder(&example, "new"), [""; 0]);
    until("tmp is empty", || folder(&example, "tmp").is_empty());
}

#[test]
fn a_mail_that_can_not_be_kept_is_wanted_again() {
    let example = start();
    let mut client = hello(example.tcp());
    let mails = example.dir.join("mails");
    for (gone, mail) in [
        ("tmp", "small\r\n".to_owned()),
        ("tmp", "large\r\n".repeat(14_000)),
        ("new", "hi\r\n".into()),
    ] {
        fs::remove_dir_all(mails.join(gone)).unwrap();
        ask(&mut client, &BEGIN);
        client.send(mail);
        ask(&mut client, &[(".", "451 4.3.0 ")]);
        fs::create_dir(mails.join(gone)).unwrap();
        assert_eq!(folder(&example, "tmp"), [""; 0]);
    }
    ask(&mut client, &BEGIN);
    ask(&mut client, &[("hi\r\n.", "250 2.0.0 ")]);
    assert_eq!(folder(&example, "new").len(), 1);
}

#[test]
fn a_drain_says_421_between_mails_and_within_one_which_is_discarded() {
    let mut example = start();
    let mut clients = example.both().map(hello);
    ask(&mut clients[1], &BEGIN);
    // A mail whose end has arrived is kept all the same.
    let mut third = hello(example.tcp());
    ask(&mut third, &BEGIN);
    clients[1].send("half a mail\r\n");
    example.terminate_before_it_reads(|| {
        third.send("a whole mail\r\n.\r\n");
        acknowledged(std::slice::from_ref(&third));
    });
    for client in &mut clients {
        assert_eq!(client.rest(), b"421 4.3.2 shutting down, come back later\r\n");
    }
    let rest = String::from_utf8(third.rest()).unwrap();
    assert!(
        rest.starts_with("250 2.0.0 ")
            && rest.lines().nth(1).is_some_and(|line| line.starts_with("421 ")),
        "{rest}"
    );
    drop((clients, third));
    assert!(example.wait().success());
    assert_eq!(folder(&example, "new").len(), 1);
    assert_eq!(folder(&example, "tmp"), [""; 0]);
}

#[test]
fn the_memory_for_large_mails_is_bounded() {
    let example = start_with(&["--max-size", "100000000"]);
    let before = resident(&example);
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let mut client = example.tcp();
            client.send("EHLO y\r\n");
            thread::spawn(move || {
                while !client.line().starts_with("250 ENHANCED") {}
                ask(&mut client, &BEGIN);
                let block = ("x".repeat(998) + "\r\n").repeat(100);
                (0..200).for_each(|_| client.send(&block));
                ask(&mut client, &[(".", "250 2.0.0 ")]);
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    let grown = resident(&example).saturating_sub(before);
    // Of 160 MB. Two blocks, a read buffer and what was read ahead, for each.
    assert!(grown < 16 * 1024, "{grown} KiB");
}

/// The most memory it has had, in KiB.
fn resident(example: &Example) -> u64 {
    let status =
        fs::read_to_string(format!("/proc/{}/status", example.pid().as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}
