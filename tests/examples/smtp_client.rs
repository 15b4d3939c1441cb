//! The smtp_client example hands mails in to our own server, in plaintext and encrypted.

use std::fs;
use std::io::Write;
use std::process::{Output, Stdio};

use crate::encrypted::{Ca, Folder};
use crate::support::{Example, TempDir, command};

fn hands_in(example: &Example, args: &[&str], mail: &str) -> Output {
    let mut client = command("smtp_client");
    client.args([
        "--to",
        &format!("tcp:{}", example.tcp),
        "--from",
        "ann@example.org",
        "--rcpt",
        "bob@example.org",
    ]);
    client.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut client = client.spawn().unwrap();
    client.stdin.take().unwrap().write_all(mail.as_bytes()).unwrap();
    client.wait_with_output().unwrap()
}

/// The mails, the newest last.
fn mails(example: &Example) -> Vec<String> {
    let folder = fs::read_dir(example.dir.join("mails/new")).unwrap();
    let mut paths: Vec<_> = folder.map(|entry| entry.unwrap().path()).collect();
    paths.sort_by_key(|path| fs::metadata(path).unwrap().modified().unwrap());
    paths.iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

#[test]
fn a_mail_arrives_with_its_dots_in_plaintext_and_encrypted() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let (roots, issued) = (folder.write("ca.pem", ca.pem()), ca.issue(["mail.example.org"]));
    let dir = TempDir::new();
    let mut server = command("smtp");
    server.arg("--maildir").arg(dir.join("mails"));
    server.arg("--cert").arg(folder.write("cert.pem", &issued.cert));
    server.arg("--key").arg(folder.write("key.pem", &issued.key));
    let example = Example::spawn(server, dir);
    let plain = hands_in(&example, &[], "one\n.\n..two\n");
    assert!(plain.status.success(), "{plain:?}");
    let roots = roots.to_str().unwrap();
    let encrypted = hands_in(&example, &["--ca", roots, "--name", "mail.example.org"], "secret\n");
    assert!(encrypted.status.success(), "{encrypted:?}");
    let mails = mails(&example);
    assert!(
        mails[0].contains(" with ESMTP id ") && mails[0].ends_with("one\r\n.\r\n..two\r\n"),
        "{}",
        mails[0]
    );
    assert!(
        mails[1].contains(" with ESMTPS id ") && mails[1].ends_with("secret\r\n"),
        "{}",
        mails[1]
    );
    // The certificate is for another name.
    let refused = hands_in(&example, &["--ca", roots, "--name", "other.example.org"], "never\n");
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not valid for name"), "{refused:?}");
    assert_eq!(mails.len(), fs::read_dir(example.dir.join("mails/new")).unwrap().count());
}
