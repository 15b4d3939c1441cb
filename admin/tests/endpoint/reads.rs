//! What can be read.

use std::time::Duration;

use ropewalk::layer::Histogram;
use ropewalk_admin::Admin;
use serde_json::json;

use crate::common::{Asked, Watched, say};

#[tokio::test]
async fn health_readiness_and_the_page_need_no_token() {
    let watched = Watched::start().await;
    let asked = Asked::tcp(&watched).await;
    for (path, body) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
        let answer = asked.request("GET", path, &[], "").await;
        assert_eq!((answer.status, &*answer.body), (200, body));
    }
    let page = asked.request("GET", "/", &[], "").await;
    assert_eq!((page.status, &*page.headers["content-type"]), (200, "text/html; charset=utf-8"));
    assert_eq!(asked.request("HEAD", "/healthz", &[], "").await.status, 200);
}

#[tokio::test]
async fn metrics_are_the_programs_own_text_and_without_any_the_answer_names_the_fix() {
    let watched = Watched::start().await;
    let none = Asked::tcp(&watched).await.request("GET", "/metrics", &[], "").await;
    assert_eq!(none.status, 404);
    assert!(none.body.contains("Admin::metrics"), "{}", none.body);
    let asked = Asked::with(&watched, Admin::new().metrics(|| "up 1\n".to_owned())).await;
    let some = asked.request("GET", "/metrics", &[], "").await;
    assert_eq!((some.status, &*some.body), (200, "up 1\n"));
    assert!(some.headers["content-type"].starts_with("text/plain; version=0.0.4"));
}

#[tokio::test]
async fn the_status_has_counts_endpoints_limits_and_the_programs_own_values() {
    let watched = Watched::start().await;
    let mut stream = watched.connect().await;
    say(&mut stream, "again").await;
    let calls = Histogram::new();
    calls.record(Duration::from_micros(100), 9);
    calls.record(Duration::from_micros(110), 1);
    let admin = Admin::new().latency("calls", calls).counter("logins failed", || 7).limit(
        "per peer",
        || 5,
        drop,
    );
    let status = Asked::with(&watched, admin).await.get("/status").await.json();
    assert_eq!(status["active"], 1);
    assert_eq!(status["accepted"], 1);
    assert_eq!(status["draining"], false);
    assert_eq!(status["counters"], json!([["logins failed", 7]]));
    assert_eq!(status["limits"][0], json!(["max_connections", watched.handle.max_connections()]));
    assert_eq!(status["limits"][1], json!(["per peer", 5]));
    let endpoint = &status["endpoints"][0];
    assert_eq!((&endpoint["service"], &endpoint["state"]), (&json!("main"), &json!("open")));
    assert_eq!((&endpoint["frames_in"], &endpoint["bytes_in"]), (&json!(2), &json!(12)));
    assert_eq!((&endpoint["refused"], &endpoint["accept_errors"]), (&json!(0), &json!(0)));
    assert_eq!(
        endpoint["preambles"],
        json!({ "pending": 0, "passed": 0, "failed": 0, "timed_out": 0, "dropped": 0 })
    );
    // Both durations are under 131 µs, the power of two.
    assert_eq!(status["latency"][0]["buckets"], json!([[131_072, 10]]));
    assert_eq!(status["latency"][0]["calls"], 10);
}

#[tokio::test(start_paused = true)]
async fn the_rates_of_each_five_seconds_are_kept() {
    use ropewalk::memory;
    let watched = Watched::start().await;
    let mut stream = watched.connect().await;
    let (endpoint, connector) = memory::endpoint();
    let (_dir, file) = crate::common::token_file();
    let admin = Admin::new().listen(endpoint).token_file(file).bind(&watched.handle).await.unwrap();
    tokio::spawn(admin);
    tokio::time::sleep(Duration::from_secs(1)).await;
    say(&mut stream, "1234567").await;
    tokio::time::sleep(Duration::from_secs(9)).await;
    let bearer = crate::common::bearer(crate::common::TOKEN);
    let request =
        format!("GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{bearer}\r\n\r\n");
    let answer = crate::common::exchange(connector.connect().await.unwrap(), &request).await.json();
    assert_eq!(answer["rates"]["every_seconds"], 5);
    let columns =
        json!(["active", "accepted", "closed", "frames_in", "frames_out", "bytes_in", "bytes_out"]);
    assert_eq!(answer["rates"]["columns"], columns);
    // At 5 s one frame of 8 bytes had come since the beginning, at 10 s nothing more.
    assert_eq!(answer["rates"]["samples"], json!([[1, 0, 0, 1, 1, 8, 8], [1, 0, 0, 0, 0, 0, 0]]));
}

#[tokio::test(start_paused = true)]
async fn the_rates_of_ten_minutes_are_kept() {
    use ropewalk::memory;
    let watched = Watched::start().await;
    let (endpoint, connector) = memory::endpoint();
    let (_dir, file) = crate::common::token_file();
    let admin = Admin::new().listen(endpoint).token_file(file).bind(&watched.handle).await.unwrap();
    tokio::spawn(admin);
    let mut stream = watched.connect().await;
    let bearer = crate::common::bearer(crate::common::TOKEN);
    let request =
        format!("GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{bearer}\r\n\r\n");
    let samples = async || {
        let stream = connector.connect().await.unwrap();
        let status = crate::common::exchange(stream, &request).await.json();
        status["rates"]["samples"].as_array().unwrap().clone()
    };
    tokio::time::sleep(Duration::from_secs(2)).await;
    say(&mut stream, "in the first five seconds").await;
    tokio::time::sleep(Duration::from_secs(599)).await;
    let kept = samples().await;
    assert_eq!((kept.len(), &kept[0][3]), (120, &json!(2)));
    tokio::time::sleep(Duration::from_secs(5)).await;
    let kept = samples().await;
    assert_eq!((kept.len(), &kept[0][3]), (120, &json!(0)));
}

#[tokio::test]
async fn every_answer_has_headers_that_restrict_browsers() {
    let watched = Watched::start().await;
    let asked = Asked::tcp(&watched).await;
    let refused =
        asked.raw("GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n").await;
    assert_eq!(refused.status, 403);
    let answers =
        [asked.get("/").await, asked.get("/status").await, asked.get("/nothing").await, refused];
    for answer in &answers {
        let header = |name: &str| answer.headers.get(name).map_or("", String::as_str);
        assert!(
            header("content-security-policy").starts_with("default-src 'none'; "),
            "{answer:?}"
        );
        assert!(header("content-security-policy").contains("frame-ancestors 'none'"), "{answer:?}");
        assert!(!header("content-security-policy").contains("unsafe"), "{answer:?}");
        for (name, value) in [
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
            ("cross-origin-opener-policy", "same-origin"),
        ] {
            assert_eq!(header(name), value, "{name}: {answer:?}");
        }
        assert!(!answer.headers.contains_key("access-control-allow-origin"));
    }
    assert_eq!(answers[2].status, 404);
    assert_eq!(
        asked
            .request("PUT", "/drain", &[&crate::common::bearer(crate::common::TOKEN)], "")
            .await
            .status,
        405
    );
}
