//! Requests that are refused: by their Host, their Origin, and their token.

use std::os::linux::net::SocketAddrExt;

use ropewalk_admin::Admin;

use crate::common::{Asked, TOKEN, Watched, bearer, spawned};

const READS: [&str; 2] = ["/status", "/connections"];
const CHANGES: [&str; 5] = [
    "/drain",
    "/reload",
    "/limits/max_connections",
    "/connections/1/drain",
    "/connections/1/abort",
];

#[tokio::test]
async fn routes_with_data_of_peers_or_changes_need_the_token() {
    let watched = Watched::start().await;
    let asked = Asked::tcp(&watched).await;
    let wrong = bearer("0123456789abcdef0123456789abcdee");
    let longer = bearer(&format!("{TOKEN}0"));
    let basic = format!("Authorization: Basic {TOKEN}");
    let other: [&[&str]; 6] =
        [&[], &[&wrong], &[&longer], &[&basic], &["Authorization: Bearer "], &["Authorization: x"]];
    for headers in other {
        for path in READS {
            let answer = asked.request("GET", path, headers, "").await;
            assert_eq!(
                (answer.status, &*answer.headers["www-authenticate"]),
                (401, "Bearer"),
                "{path} {headers:?}"
            );
        }
        for path in CHANGES {
            assert_eq!(
                asked.request("POST", path, headers, "").await.status,
                401,
                "{path} {headers:?}"
            );
        }
    }
    let twice = [&*bearer(TOKEN), &*bearer(TOKEN)];
    assert_eq!(asked.request("GET", "/status", &twice, "").await.status, 400);
    assert!(!watched.handle.is_draining());
    for path in READS {
        assert_eq!(asked.get(path).await.status, 200);
    }
    assert_eq!(
        asked
            .request("GET", "/status", &[&format!("authorization: bearer {TOKEN}")], "")
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn without_a_token_file_they_are_refused_altogether() {
    let watched = Watched::start().await;
    let asked =
        spawned(Admin::new().listen("tcp:127.0.0.1:0").bind(&watched.handle).await.unwrap());
    for path in READS {
        let answer = asked.get(path).await;
        assert_eq!(answer.status, 403);
        assert!(answer.body.contains("Admin::token_file"), "{}", answer.body);
    }
    for path in CHANGES {
        assert_eq!(asked.post(path, "").await.status, 403, "{path}");
    }
    assert_eq!(asked.get("/healthz").await.status, 200);
    assert!(!watched.handle.is_draining());
}

#[tokio::test]
async fn on_a_unix_socket_reading_needs_no_token_and_changing_does() {
    let watched = Watched::start().await;
    let (dir, file) = crate::common::token_file();
    let path = dir.path().join("admin.sock");
    let admin = Admin::new().listen(format!("unix:{}", path.display())).token_file(file);
    let asked = spawned(admin.bind(&watched.handle).await.unwrap());
    for path in READS {
        assert_eq!(asked.request("GET", path, &[], "").await.status, 200);
    }
    for path in CHANGES {
        assert_eq!(asked.request("POST", path, &[], "").await.status, 401, "{path}");
    }
    assert_eq!(asked.post("/limits/max_connections", r#"{"value":3}"#).await.status, 200);
    // A browser may reach it through ssh -L.
    let rebound = "GET /connections HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    assert_eq!(asked.raw(rebound).await.status, 403);
}

#[tokio::test]
async fn an_abstract_name_has_no_permissions_so_it_needs_the_token() {
    let watched = Watched::start().await;
    let (dir, file) = crate::common::token_file();
    let name = format!("ropewalk-admin-{}", std::process::id());
    let admin = Admin::new()
        .listen(format!("unix:@{name}"))
        .token_file(file)
        .bind(&watched.handle)
        .await
        .unwrap();
    tokio::spawn(admin);
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
    let stream = std::os::unix::net::UnixStream::connect_addr(&address).unwrap();
    stream.set_nonblocking(true).unwrap();
    let request = "GET /connections HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let stream = tokio::net::UnixStream::from_std(stream).unwrap();
    assert_eq!(crate::common::exchange(stream, request).await.status, 401);
    drop(dir);
}

#[tokio::test]
async fn a_host_that_others_can_point_here_is_refused_for_every_path() {
    let watched = Watched::start().await;
    let asked = Asked::with(&watched, Admin::new().host("admin.example.org")).await;
    let port = asked.handle.addresses()[0].to_string().rsplit(':').next().unwrap().to_owned();
    let ask = async |path: &str, head: &str| {
        asked.raw(&format!("GET {path} HTTP/1.1\r\n{head}Connection: close\r\n\r\n")).await.status
    };
    for path in ["/", "/healthz", "/readyz", "/metrics", "/status", "/nothing"] {
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "192.0.2.1:80",
            "[::2]",
            "[127.0.0.1]",
            "localhost.",
            "2130706433",
        ] {
            assert_eq!(ask(path, &format!("Host: {host}\r\n")).await, 403, "{path} {host}");
        }
        for head in [
            "",
            "Host: \r\n",
            "Host: a b\r\n",
            "Host: localhost\r\nHost: localhost\r\n",
            "Host: me@localhost\r\n",
            "Host: localhost@localhost\r\n",
            // What comes after an address belongs to the name.
            "Host: [::1].evil.example\r\n",
            "Host: [::1]evil\r\n",
            "Host: 127.0.0.1:evil\r\n",
            "Host: localhost:+80\r\n",
            "Host: localhost:65536\r\n",
        ] {
            assert_eq!(ask(path, head).await, 400, "{path} {head:?}");
        }
    }
    for host in [
        "localhost",
        "LOCALHOST:1",
        "127.0.0.1",
        "[::1]:9",
        &format!("127.0.0.1:{port}"),
        "Admin.example.org:443",
    ] {
        assert_eq!(ask("/healthz", &format!("Host: {host}\r\n")).await, 200, "{host}");
    }
}

#[tokio::test]
async fn a_request_of_another_sites_page_is_refused_even_with_the_token() {
    let watched = Watched::start().await;
    let asked = Asked::tcp(&watched).await;
    let token = bearer(TOKEN);
    for origin in [
        "http://evil.example",
        "null",
        "http://localhost.evil.example",
        "http://localhost:8080",
        "ftp://localhost",
        "",
    ] {
        let origin = format!("Origin: {origin}");
        for (method, path) in [("POST", "/drain"), ("GET", "/connections"), ("GET", "/healthz")] {
            assert_eq!(
                asked.request(method, path, &[&token, &origin], "").await.status,
                403,
                "{path} {origin}"
            );
        }
    }
    assert!(!watched.handle.is_draining());
    for origin in ["http://localhost", "https://localhost"] {
        let origin = format!("Origin: {origin}");
        assert_eq!(
            asked.request("GET", "/connections", &[&token, &origin], "").await.status,
            200,
            "{origin}"
        );
    }
}
