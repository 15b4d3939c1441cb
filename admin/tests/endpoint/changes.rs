//! What can be changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ropewalk::server::reload_fn;
use ropewalk::{CloseReason, Error, Server};
use ropewalk_admin::Admin;
use tokio::io::AsyncReadExt;

use crate::common::{Asked, TOKEN, Watched, bearer, spawned, token_file, write_token};

#[tokio::test]
async fn one_connection_is_aborted_and_the_others_stay() {
    let watched = Watched::start().await;
    let (mut one, mut other) = (watched.connect().await, watched.connect().await);
    let id = watched.handle.connections().iter().map(ropewalk::ConnectionInfo::id).min().unwrap();
    let asked = Asked::tcp(&watched).await;
    assert_eq!(asked.post(&format!("/connections/{id}/abort"), "").await.status, 200);
    assert!(one.read_u8().await.is_err());
    crate::common::say(&mut other, "still here").await;
    assert_eq!(watched.handle.counts().closed(CloseReason::Aborted), 1);
    assert_eq!(asked.post(&format!("/connections/{id}/abort"), "").await.status, 404);
}

#[tokio::test]
async fn one_connection_is_drained() {
    let watched = Watched::start().await;
    let mut one = watched.connect().await;
    let id = watched.handle.connections()[0].id();
    let asked = Asked::tcp(&watched).await;
    assert_eq!(
        asked.post(&format!("/connections/{id}/drain"), r#"{"within_seconds":5}"#).await.status,
        202
    );
    let mut byte = [0];
    let ended = tokio::time::timeout(std::time::Duration::from_secs(20), one.read(&mut byte)).await;
    assert_eq!(ended.unwrap().unwrap(), 0);
    assert!(!watched.handle.is_draining());
    assert_eq!(asked.post("/connections/99999999/drain", "").await.status, 404);
    assert_eq!(asked.post("/connections/first/drain", "").await.status, 400);
}

#[tokio::test]
async fn limits_are_set_and_zero_is_refused() {
    let watched = Watched::start().await;
    let own = Arc::new(AtomicUsize::new(5));
    let (get, set) = (Arc::clone(&own), Arc::clone(&own));
    let admin = Admin::new().limit(
        "per peer",
        move || get.load(Ordering::Relaxed),
        move |n| set.store(n, Ordering::Relaxed),
    );
    let asked = Asked::with(&watched, admin).await;
    assert_eq!(asked.post("/limits/max_connections", r#"{"value":77}"#).await.status, 200);
    assert_eq!(watched.handle.max_connections(), 77);
    assert_eq!(asked.post("/limits/per%20peer", r#"{"value":9}"#).await.status, 200);
    assert_eq!(own.load(Ordering::Relaxed), 9);
    assert_eq!(asked.post("/limits/max_connections", r#"{"value":0}"#).await.status, 400);
    assert_eq!(asked.post("/limits/other", r#"{"value":1}"#).await.status, 404);
    for body in ["", "7", r#"{"value":-1}"#, r#"{"value":1,"more":2}"#, "{"] {
        assert_eq!(asked.post("/limits/max_connections", body).await.status, 400, "{body}");
    }
    assert_eq!(watched.handle.max_connections(), 77);
}

#[tokio::test]
async fn a_body_of_4096_bytes_is_read_and_a_longer_one_refused() {
    let watched = Watched::start().await;
    let asked = Asked::tcp(&watched).await;
    let body = |bytes: usize| format!("{:<bytes$}", r#"{"value":8}"#);
    assert_eq!(asked.post("/limits/max_connections", &body(4096)).await.status, 200);
    assert_eq!(asked.post("/limits/max_connections", &body(4097)).await.status, 413);
}

#[tokio::test]
async fn a_reload_reads_the_servers_resources_and_the_token_again() {
    let reads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&reads);
    let read = move || {
        let n = counted.fetch_add(1, Ordering::Relaxed);
        async move { if n == 1 { Err(Error::other("the list is broken")) } else { Ok(()) } }
    };
    let watched = Watched::with(Server::new().reload(reload_fn(read, drop))).await;
    let (_dir, file) = token_file();
    let admin = Admin::new()
        .listen("tcp:127.0.0.1:0")
        .token_file(&file)
        .bind(&watched.handle)
        .await
        .unwrap();
    let asked = spawned(admin);
    assert_eq!(asked.post("/reload", "").await.status, 200);
    let failed = asked.post("/reload", "").await;
    assert_eq!(
        (failed.status, failed.body.contains("the list is broken")),
        (500, true),
        "{}",
        failed.body
    );
    // The token is another one only after a reload.
    write_token(&file, "another token of 31 characters!".replace(' ', "-").as_str());
    let new = bearer("another-token-of-31-characters!");
    assert_eq!(asked.request("POST", "/reload", &[&new], "").await.status, 401);
    assert_eq!(asked.request("POST", "/reload", &[&bearer(TOKEN)], "").await.status, 200);
    assert_eq!(asked.request("GET", "/status", &[&new], "").await.status, 200);
    assert_eq!(asked.request("GET", "/status", &[&bearer(TOKEN)], "").await.status, 401);
    // One that is not valid does not replace it.
    write_token(&file, "short");
    assert_eq!(asked.request("POST", "/reload", &[&new], "").await.status, 500);
    assert_eq!(asked.request("GET", "/status", &[&new], "").await.status, 200);
}

#[tokio::test]
async fn the_token_and_the_certificate_of_the_endpoint_are_reloaded_with_the_server_or_not_at_all()
{
    let broken = Arc::new(AtomicUsize::new(0));
    let is_broken = Arc::clone(&broken);
    let read = move || {
        let n = is_broken.load(Ordering::Relaxed);
        async move { if n == 1 { Err(Error::other("the list is broken")) } else { Ok(()) } }
    };
    let watched = Watched::with(Server::new().reload(reload_fn(read, drop))).await;
    let (dir, file) = token_file();
    let make = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (old, new) = (make(), make());
    let pem = dir.path().join("both.pem");
    let write = |made: &rcgen::CertifiedKey<rcgen::KeyPair>| {
        std::fs::write(&pem, made.cert.pem() + &made.signing_key.serialize_pem()).unwrap();
    };
    write(&old);
    let endpoint = format!("tls:127.0.0.1:0?cert={0}&key={0}", pem.display());
    let admin = Admin::new().listen(endpoint).token_file(&file);
    let asked = spawned(admin.bind(&watched.handle).await.unwrap());
    let mut roots = tokio_rustls::rustls::RootCertStore::empty();
    for made in [&old, &new] {
        roots.add(made.cert.der().clone()).unwrap();
    }
    let shows = async |made: &rcgen::CertifiedKey<rcgen::KeyPair>, token: &str| {
        let stream = crate::common::encrypted(&asked, roots.clone()).await;
        assert!(stream.get_ref().1.peer_certificates().unwrap()[0] == *made.cert.der());
        let request = format!(
            "GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{}\r\n\r\n",
            bearer(token)
        );
        assert_eq!(crate::common::exchange(stream, &request).await.status, 200);
    };
    shows(&old, TOKEN).await;
    let another = "another-token-of-the-tests";
    write(&new);
    write_token(&file, another);
    broken.store(1, Ordering::Relaxed);
    assert!(watched.handle.reload().await.is_err());
    shows(&old, TOKEN).await;
    broken.store(0, Ordering::Relaxed);
    write_token(&file, "short");
    assert!(watched.handle.reload().await.is_err());
    shows(&old, TOKEN).await;
    write_token(&file, another);
    watched.handle.reload().await.unwrap();
    shows(&new, another).await;
    // What an endpoint that has ended needed is not read any more.
    asked.handle.stop();
    asked.handle.ended().await;
    std::fs::remove_file(&file).unwrap();
    watched.handle.reload().await.unwrap();
}
