//! Requests that no browser and no tool sends.

use ropewalk_admin::Admin;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::{Asked, TOKEN, Watched, bearer};

#[tokio::test]
async fn each_request_of_a_pipeline_is_checked_by_itself_and_all_are_answered_in_order() {
    let watched = Watched::start().await;
    let asked = Asked::tcp(&watched).await;
    let token = bearer(TOKEN);
    let one = |path: &str, headers: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")
    };
    let all = [
        one("/status", &format!("{token}\r\n")),
        one("/status", ""),
        one("/healthz", "Origin: http://evil.example\r\n"),
        one("/healthz", "Connection: close\r\n"),
        one("/drain", ""),
    ];
    let address = asked.handle.addresses()[0].to_string().replace("tcp:", "");
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(all.concat().as_bytes()).await.unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.unwrap();
    let statuses: Vec<&str> = answers
        .match_indices("HTTP/1.1 ")
        .map(|(at, found)| &answers[at + found.len()..][..3])
        .collect();
    assert_eq!(statuses, ["200", "401", "403", "200"], "{answers}");
}

#[tokio::test]
async fn other_methods_are_refused_and_the_answer_names_those_of_the_path() {
    let watched = Watched::start().await;
    let asked = Asked::tcp(&watched).await;
    let token = bearer(TOKEN);
    for method in ["OPTIONS", "TRACE", "PUT", "DELETE", "PATCH", "BREW"] {
        for (path, allowed) in
            [("/", "GET"), ("/healthz", "GET"), ("/connections", "GET"), ("/drain", "POST")]
        {
            let none = asked.request(method, path, &[], "").await;
            assert_eq!(none.status, 401, "{method} {path}");
            let refused = asked.request(method, path, &[&token, "X-Secret: 7"], "").await;
            assert_eq!(refused.status, 405, "{method} {path}");
            assert!(refused.headers["allow"].contains(allowed), "{refused:?}");
            // TRACE would send the token back.
            assert!(!refused.body.contains("Secret") && !refused.body.contains(TOKEN));
        }
    }
    for (method, path) in [("GET", "/drain"), ("HEAD", "/reload"), ("POST", "/status")] {
        assert_eq!(asked.request(method, path, &[&token], "").await.status, 405, "{method} {path}");
    }
    assert!(!watched.handle.is_draining());
}

#[tokio::test]
async fn a_target_that_is_no_path_is_checked_like_one() {
    let watched = Watched::start().await;
    let asked = Asked::with(&watched, Admin::new().host("admin.example.org")).await;
    let token = bearer(TOKEN);
    let ask = async |line: &str, host: &str, token: &str| {
        let request =
            format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{token}\r\n");
        asked.raw(&request).await.status
    };
    let with = format!("{token}\r\n");
    // A complete URI, as a proxy receives it: its host counts, and has to be that of the header.
    assert_eq!(ask("GET http://localhost/status", "localhost", &with).await, 200);
    assert_eq!(ask("GET http://localhost/status", "localhost", "").await, 401);
    assert_eq!(ask("GET http://localhost/healthz", "localhost", "").await, 200);
    assert_eq!(ask("GET http://evil.example/healthz", "evil.example", "").await, 403);
    assert_eq!(ask("GET http://evil.example/healthz", "localhost", "").await, 400);
    assert_eq!(ask("GET http://admin.example.org/healthz", "localhost", "").await, 400);
    assert_eq!(ask("GET http://me@localhost/healthz", "localhost", "").await, 400);
    // And those of other methods.
    assert_eq!(ask("OPTIONS *", "localhost", "").await, 401);
    assert_eq!(ask("OPTIONS *", "localhost", &with).await, 404);
    assert_eq!(ask("CONNECT localhost:80", "localhost:80", "").await, 401);
    assert!(ask("CONNECT localhost:80", "localhost:80", &with).await >= 400);
    // Paths that look like an open one are not.
    for path in ["//", "//healthz", "/healthz/", "/./status", "/%68ealthz", "/status?/healthz"] {
        assert_eq!(ask(&format!("GET {path}"), "localhost", "").await, 401, "{path}");
    }
}

#[tokio::test]
async fn parameters_and_numbers_beyond_all_bounds_are_refused() {
    let watched = Watched::start().await;
    let _stream = watched.connect().await;
    let asked = Asked::tcp(&watched).await;
    let huge = "9".repeat(40);
    for query in [
        format!("limit={huge}"),
        format!("min_age={huge}"),
        format!("listener={huge}"),
        "limit=1&limit=2".to_owned(),
        "limit=1e3".to_owned(),
        "limit=".to_owned(),
    ] {
        assert_eq!(asked.get(&format!("/connections?{query}")).await.status, 400, "{query}");
    }
    // A text that is not what it seems is searched as it is, and finds nothing.
    for q in ["%zz", "%", "%ff%fe", "%00", "%3Cscript%3E", &"x".repeat(8000)] {
        let list = asked.get(&format!("/connections?q={q}")).await.json();
        assert_eq!((list["open"].as_u64(), list["matched"].as_u64()), (Some(1), Some(0)), "{q}");
    }
    for path in [
        format!("/connections/{huge}/abort"),
        "/connections/-1/abort".to_owned(),
        "/connections/%00/abort".to_owned(),
    ] {
        assert_eq!(asked.post(&path, "").await.status, 400, "{path}");
    }
    let body = format!(r#"{{"value":{huge}}}"#);
    assert_eq!(asked.post("/limits/max_connections", &body).await.status, 400);
    assert_eq!(asked.post("/limits/%ff", r#"{"value":1}"#).await.status, 400);
    let most = format!(r#"{{"value":{}}}"#, usize::MAX);
    assert_eq!(asked.post("/limits/max_connections", &most).await.status, 200);
    assert_eq!(asked.get("/status").await.json()["limits"][0][1], usize::MAX);
    // It still serves.
    let _another = watched.connect().await;
}

#[tokio::test]
async fn a_hook_that_panics_costs_its_own_answer_only() {
    let watched = Watched::start().await;
    let _stream = watched.connect().await;
    let admin = Admin::new().names(|_| panic!("on purpose"));
    let asked = Asked::with(&watched, admin).await;
    let address = asked.handle.addresses()[0].to_string().replace("tcp:", "");
    let mut stream = TcpStream::connect(address).await.unwrap();
    let token = bearer(TOKEN);
    let request = format!("GET /connections HTTP/1.1\r\nHost: localhost\r\n{token}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut rest = Vec::new();
    drop(stream.read_to_end(&mut rest).await);
    assert!(!rest.starts_with(b"HTTP/1.1 200"));
    assert_eq!(asked.get("/status").await.status, 200);
    assert!(!watched.handle.is_draining());
}
