//! The example smtp, whose mails go into a folder that goes with it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use ropewalk::server::Serve;
use ropewalk::{Endpoint, Server, StateLayer, TlsConfig, session_with};
use tempfile::TempDir;

#[rustfmt::skip]
#[path = "../../../examples/smtp/maildir.rs"]
mod maildir;
#[rustfmt::skip]
#[path = "../../../examples/smtp/session.rs"]
mod session;

use self::maildir::Maildir;
use self::session::{Config, lines, smtp};

/// A folder in memory, where there is one: a mail is on the disk before it is said so.
const IN_MEMORY: &str = "/dev/shm";
/// What is said of a mail, before its name.
const KEPT: &[u8] = b"250 2.0.0 kept as ";
/// What is said before anything encrypted: what comes behind it as plaintext refuses it, or is no
/// handshake.
const GO_AHEAD: &[u8] = b"220 2.0.0 go ahead\r\n";

pub struct Smtp(TempDir);

impl super::Protocol for Smtp {
    fn new() -> Self {
        let folder = tempfile::tempdir_in(IN_MEMORY).or_else(|_| tempfile::tempdir());
        Self(folder.unwrap_or_else(|error| panic!("no folder: {error}")))
    }

    fn serve(&self, endpoint: Endpoint) -> Serve {
        let Ok(maildir) = Maildir::open(self.0.path().to_owned(), "x") else {
            panic!("the folder is new")
        };
        let domains = vec!["x.example".to_owned()];
        let config = Config {
            name: "x".into(),
            domains,
            max_size: 1000,
            tls: TlsConfig::files("none", "none"),
            maildir,
        };
        Server::new()
            .listen(endpoint)
            .layer(StateLayer::new(Arc::new(config)))
            .serve(session_with(lines(), smtp))
    }

    /// Without the names of mails, and up to where it is to be encrypted.
    fn stable(heard: Vec<u8>) -> Vec<u8> {
        let end = heard
            .windows(GO_AHEAD.len())
            .position(|window| window == GO_AHEAD)
            .unwrap_or(heard.len());
        let lines = heard[..end].split_inclusive(|&byte| byte == b'\n');
        lines.flat_map(|line| if line.starts_with(KEPT) { KEPT } else { line }).copied().collect()
    }

    /// The mails, without the lines that tell when they came.
    fn kept(&self) -> Vec<Vec<u8>> {
        let mut mails = mails(&self.0.path().join("new"));
        mails.sort();
        mails
    }
}

fn mails(folder: &Path) -> Vec<Vec<u8>> {
    let Ok(entries) = fs::read_dir(folder) else { panic!("the folder of new mails is gone") };
    let files = entries.filter_map(|entry| fs::read(entry.ok()?.path()).ok());
    let end = b" +0000\r\n";
    let body = |mail: Vec<u8>| match mail.windows(end.len()).position(|window| window == end) {
        Some(at) => mail[at + end.len()..].to_vec(),
        None => panic!("a mail without its date"),
    };
    files.map(body).collect()
}
