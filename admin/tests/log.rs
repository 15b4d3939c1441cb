//! What the endpoint logs. A program of its own, as the log is that of the process.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "endpoint/common.rs"]
#[allow(dead_code)] // it uses a part of it
mod common;

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ropewalk_admin::Admin;

use crate::common::{TOKEN, Watched, bearer, spawned, token_file};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// Waits for these words: lines are written by other threads.
    async fn says(&self, words: &str) {
        let said = async {
            while !self.text().contains(words) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let within = tokio::time::timeout(Duration::from_secs(20), said).await;
        assert!(within.is_ok(), "{words:?} is not in {}", self.text());
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn each_change_is_logged_with_its_peer_and_so_is_a_wrong_token_and_no_token_is_shown() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).init();
    let watched = Watched::start().await;
    let (_one, _other) = (watched.connect().await, watched.connect().await);
    let ids: Vec<u64> =
        watched.handle.connections().iter().map(ropewalk::ConnectionInfo::id).collect();
    let (_dir, file) = token_file();
    let admin = Admin::new()
        .listen("tcp:127.0.0.1:0")
        .token_file(file)
        .bind(&watched.handle)
        .await
        .unwrap();
    let asked = spawned(admin);
    assert_eq!(asked.request("GET", "/status", &[], "").await.status, 401);
    assert_eq!(asked.get("/status").await.status, 200);
    assert!(!log.text().contains("token"), "{}", log.text());
    assert_eq!(
        asked.request("GET", "/status", &[&bearer("a-wrong-token-of-a-peer")], "").await.status,
        401
    );
    log.says("a wrong token peer=tcp:127.0.0.1:").await;
    for (path, body, words) in [
        (format!("/connections/{}/abort", ids[0]), "", format!("id={}", ids[0])),
        (format!("/connections/{}/drain", ids[1]), "", format!("id={}", ids[1])),
        (
            "/limits/max_connections".to_owned(),
            r#"{"value":7}"#,
            "limit=max_connections value=7".to_owned(),
        ),
        ("/reload".to_owned(), "", "was reloaded by a request".to_owned()),
        ("/drain".to_owned(), r#"{"within_seconds":9}"#, "within_seconds=9".to_owned()),
    ] {
        assert!(asked.post(&path, body).await.status < 300, "{path}");
        log.says(&words).await;
    }
    let text = log.text();
    let warnings = text
        .lines()
        .filter(|line| line.contains(" WARN ") && line.contains("peer=tcp:127.0.0.1:"))
        .count();
    assert_eq!(warnings, 6, "{text}");
    assert!(!text.contains(TOKEN) && !text.contains("a-wrong-token"), "{text}");
}
