//! The memcached_client example: against our own server, and against memcached where it is
//! installed.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::{Example, TempDir, command, program, until};

/// What the example says to these words.
fn says(to: &str, words: &[&str]) -> String {
    let output = command("memcached_client").args(["--to", to]).args(words).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What both servers answer.
fn check(to: &str) {
    assert_eq!(says(to, &["get", "a", "b"]), "END\n");
    assert_eq!(says(to, &["set", "a", "hello"]), "STORED\n");
    assert_eq!(says(to, &["set", "b", "END"]), "STORED\n");
    // The value that looks like the end is not the end.
    assert_eq!(
        says(to, &["get", "a", "missing", "b"]),
        "VALUE a 0 5\nhello\nVALUE b 0 3\nEND\nEND\n"
    );
    assert_eq!(says(to, &["delete", "a"]), "DELETED\n");
    assert_eq!(says(to, &["nonsense"]), "ERROR\n");
}

#[test]
fn our_own_server_answers_with_all_values_of_a_get() {
    let example = Example::start("memcached");
    check(&format!("tcp:{}", example.tcp));
    says(&format!("unix:{}", example.unix.display()), &["delete", "b"]);
}

struct Memcached(Child);

impl Memcached {
    fn start(path: &Path) -> Option<Self> {
        let server = program("memcached")?;
        // It does not run as root unless a user is named.
        let child = Command::new(server)
            .args(["-u", "root", "-s"])
            .arg(path)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until("memcached listens", || path.exists());
        Some(Self(child))
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn memcached_answers_the_same() {
    let dir = TempDir::new();
    let path = dir.join("memcached.sock");
    let Some(_memcached) = Memcached::start(&path) else { return };
    check(&format!("unix:{}", path.display()));
}

#[test]
fn without_a_server_it_says_so_after_its_time() {
    let dir = TempDir::new();
    let nobody = format!("unix:{}", dir.join("nobody").display());
    let output = command("memcached_client").args(["--to", &nobody, "get", "a"]).output().unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("no answer in time; the request was not sent"), "{text}");
}
