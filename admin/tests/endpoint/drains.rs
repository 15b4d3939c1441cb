//! The endpoint while its server drains.

use std::time::Duration;

use ropewalk::{Addr, Bytes, Lines, Server, framed, memory, reply_fn};
use ropewalk_admin::Admin;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::common::{TOKEN, bearer, exchange, token_file};

/// A server whose answers come when `go` is sent, with its admin endpoint, both in one future.
#[tokio::test]
async fn it_answers_until_the_last_connection_has_ended_and_is_not_ready_meanwhile() {
    let (endpoint, connector) = memory::endpoint();
    let (go, gone) = tokio::sync::watch::channel(false);
    let answer = ropewalk::service_fn(move |line: Bytes| {
        let mut gone = gone.clone();
        async move {
            gone.wait_for(|gone| *gone).await.map_err(ropewalk::Error::other)?;
            Ok::<_, ropewalk::Error>(line)
        }
    });
    let serve = Server::new().listen(endpoint).serve(framed(Lines::any(), answer));
    let handle = serve.handle();
    let (dir, file) = token_file();
    let path = dir.path().join("admin.sock");
    let admin = Admin::new().listen(format!("unix:{}", path.display())).token_file(file);
    let running = tokio::spawn(admin.run(serve));
    let mut stream = connector.connect().await.unwrap();
    stream.write_all(b"slow\n").await.unwrap();
    let ask = async |request: &str| {
        let request = format!(
            "{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{}\r\n\r\n",
            bearer(TOKEN)
        );
        exchange(UnixStream::connect(&path).await.unwrap(), &request).await
    };
    while handle.counts().active() == 0 || !path.exists() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(ask("GET /readyz").await.status, 200);
    assert_eq!(ask("POST /drain").await.status, 202);
    for _ in 0..3 {
        let answer = ask("GET /readyz").await;
        assert_eq!((answer.status, &*answer.body), (503, "draining\n"));
        assert_eq!(ask("GET /healthz").await.status, 200);
        assert_eq!(ask("GET /status").await.json()["draining"], true);
    }
    go.send(true).unwrap();
    running.await.unwrap().unwrap();
    assert_eq!(handle.drain_report().unwrap().cut(), 0);
    assert!(!path.exists(), "the endpoint is gone with its server");
}

/// A page keeps its connection open between two refreshes.
#[tokio::test(start_paused = true)]
async fn an_idle_connection_does_not_delay_the_end() {
    let (endpoint, _connector) = memory::endpoint();
    let serve =
        Server::new().listen(endpoint).serve(framed(Lines::any(), reply_fn(|line: Bytes| line)));
    let handle = serve.handle();
    let (admin, pages) = memory::endpoint();
    let running = tokio::spawn(Admin::new().listen(admin).run(serve));
    let mut page = pages.connect().await.unwrap();
    page.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    page.read_exact(&mut [0; 15]).await.unwrap();
    let began = tokio::time::Instant::now();
    handle.drain(Duration::from_secs(60));
    running.await.unwrap().unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_endpoint_that_can_not_be_bound_ends_the_server_before_it_serves() {
    let (endpoint, connector) = memory::endpoint();
    let serve =
        Server::new().listen(endpoint).serve(framed(Lines::any(), reply_fn(|line: Bytes| line)));
    let running = Admin::new().listen("tcp:0.0.0.0:0").run(serve);
    let ended = tokio::time::timeout(Duration::from_secs(20), running).await;
    let error = ended.unwrap().unwrap_err().to_string();
    assert!(error.contains("other machines"), "{error}");
    assert!(connector.connect().await.is_err());
}

#[tokio::test]
async fn the_times_of_a_drain_are_bounded() {
    let watched = crate::common::Watched::start().await;
    let asked = crate::common::Asked::tcp(&watched).await;
    assert!(matches!(asked.handle.addresses()[0], Addr::Tcp(_)));
    for body in [r#"{"within_seconds":86401}"#, r#"{"within_seconds":-1}"#, r#"{"within":1}"#, "30"]
    {
        assert_eq!(asked.post("/drain", body).await.status, 400, "{body}");
    }
    assert!(!watched.handle.is_draining());
    assert_eq!(asked.post("/drain", r#"{"within_seconds":86400}"#).await.status, 202);
    assert!(watched.handle.is_draining());
}

#[tokio::test]
async fn it_answers_while_the_server_is_full() {
    let watched =
        crate::common::Watched::with(Server::new().max_connections(1).make_room(None)).await;
    let _only = watched.connect().await;
    let asked = crate::common::Asked::tcp(&watched).await;
    assert_eq!(asked.get("/connections").await.json()["open"], 1);
}
