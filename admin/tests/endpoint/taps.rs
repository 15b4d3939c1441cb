//! Connections that are recorded on request.

use ropewalk::Server;
use ropewalk::layer::TapLayer;
use ropewalk_admin::Admin;
use serde_json::Value;
use tower::Layer;

use crate::common::{Asked, Watched, bearer, say};

#[tokio::test]
async fn a_tap_is_started_shown_joined_and_stopped_and_each_change_needs_the_token() {
    let watched = Watched::start().await;
    let folder = tempfile::TempDir::new().unwrap();
    let tap = TapLayer::new();
    let asked = Asked::with(&watched, Admin::new().tap(tap.clone(), folder.path())).await;
    let mut open = watched.connect().await;
    let id = watched.handle.connections()[0].id();
    let join = format!("/connections/{id}/tap");
    for path in ["/tap/start", "/tap/stop", &join] {
        assert_eq!(asked.request("POST", path, &[], "").await.status, 401, "{path}");
        let wrong = bearer("0123456789abcdef0123456789abcdee");
        assert_eq!(asked.request("POST", path, &[&wrong], "").await.status, 401, "{path}");
    }
    assert_eq!(asked.request("GET", "/tap", &[], "").await.status, 401);
    assert!(!tap.is_running() && asked.get("/tap").await.body == "null");
    assert_eq!(asked.post(&join, "").await.status, 409);
    for bad in [
        r#"{"peer":"nobody"}"#,
        r#"{"sample":0}"#,
        r#"{"max_seconds":3601}"#,
        r#"{"max_bytes":1073741825}"#,
        r#"{"file":"/etc/passwd"}"#,
    ] {
        assert_eq!(asked.post("/tap/start", bad).await.status, 400, "{bad}");
    }
    let body = r#"{"hex":true,"peer":"192.0.2.0/24","listener":1,"sample":2,"max_bytes":10000,"max_seconds":60}"#;
    assert_eq!(asked.post("/tap/start", body).await.status, 202);
    assert_eq!(asked.post("/tap/start", "").await.status, 409);
    assert_eq!(asked.post(&join, "").await.status, 200);
    assert_eq!(asked.post("/connections/99999999/tap", "").await.status, 404);
    say(&mut open, "recorded").await;
    assert_eq!(asked.post("/tap/stop", "").await.status, 200);
    let shown = loop {
        let shown: Value = serde_json::from_str(&asked.get("/tap").await.body).unwrap();
        if !shown["end"].is_null() {
            break shown;
        }
    };
    assert_eq!((&shown["end"], &shown["connections"]), (&"stopped".into(), &1.into()));
    let file = std::path::Path::new(shown["file"].as_str().unwrap());
    assert_eq!(file.parent(), Some(folder.path()));
    assert!(std::fs::read_to_string(file).unwrap().contains("recorded"));
}

#[tokio::test]
async fn a_server_without_a_tap_says_so() {
    let watched = Watched::with(Server::new()).await;
    let asked = Asked::tcp(&watched).await;
    assert_eq!(asked.get("/tap").await.status, 404);
    assert_eq!(asked.post("/tap/start", "").await.status, 404);
    // A layer that no one told the endpoint of is not found either.
    drop(TapLayer::new().layer(()));
}
