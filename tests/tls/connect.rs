//! The client's side of TLS: whose certificate is taken, and what is shown and offered.
#![cfg(feature = "rustls")]

use ropewalk::tls::ClientTls;
use ropewalk::{
    Bytes, Connection, Lines, Remote, Result, Session, TlsConfig, connect, framed, reply_fn,
    session,
};

use crate::encrypted::{Ca, Folder, Running, localhost, soon, text};

fn echo() -> impl ropewalk::ConnectionService {
    framed(Lines::lf(), reply_fn(|line: Bytes| line))
}

async fn answers(connection: Connection) {
    let mut s = Session::over(connection, Lines::lf());
    s.feed("hello").unwrap();
    assert_eq!(soon(s.next()).await.unwrap().unwrap(), "hello");
    s.close().await.unwrap();
}

async fn fails(remote: impl Into<String>) -> String {
    soon(connect(remote.into())).await.unwrap_err().to_string()
}

#[tokio::test]
async fn the_certificate_must_be_for_the_name_of_the_host() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let roots = folder.write("ca.pem", ca.pem());
    let server = Running::tls(localhost(&ca, &folder), echo()).await;
    let (port, roots) = (server.addr.port(), text(&roots));
    let connection = connect(format!("tls:localhost:{port}?ca={roots}")).await.unwrap();
    assert_eq!(connection.tls().unwrap().server_name(), Some("localhost"));
    answers(connection).await;
    // An address is another name, unless it is said which one is meant.
    let error = fails(format!("tls:127.0.0.1:{port}?ca={roots}")).await;
    assert!(error.contains("not valid for name"), "{error}");
    answers(connect(format!("tls:127.0.0.1:{port}?ca={roots}&name=localhost")).await.unwrap())
        .await;
    server.end().await;
}

#[tokio::test]
async fn without_roots_that_signed_it_no_certificate_is_taken() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let other = folder.write("other.pem", Ca::new().pem());
    let server = Running::tls(localhost(&ca, &folder), echo()).await;
    let port = server.addr.port();
    let error = fails(format!("tls:localhost:{port}?ca={}", text(&other))).await;
    assert!(error.contains("UnknownIssuer"), "{error}");
    // The system's roots have not signed it either.
    assert!(connect(format!("tls:localhost:{port}")).await.is_err());
    server.end().await;
}

#[tokio::test]
async fn in_memory_a_name_is_needed_and_with_it_the_certificate_is_verified() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let server = Running::tls(localhost(&ca, &folder), echo()).await;
    let tls = ClientTls::new().ca_pem(ca.pem());
    let nameless = Remote::from(&server.memory).tls(tls.clone());
    let error = soon(connect(nameless)).await.unwrap_err().to_string();
    assert!(error.contains("there is no name"), "{error}");
    answers(connect(Remote::from(&server.memory).tls(tls.name("localhost"))).await.unwrap()).await;
    server.end().await;
}

#[tokio::test]
async fn a_certificate_of_its_own_is_shown_and_a_protocol_is_settled() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let roots = folder.write("ca.pem", ca.pem());
    let issued = ca.issue(["client"]);
    let (cert, key) =
        (folder.write("client.pem", &issued.cert), folder.write("client.key", &issued.key));
    let served = localhost(&ca, &folder).client_ca(&roots).alpn(["echo/1"]);
    let server = Running::tls(served, echo()).await;
    let plain = format!("tls:localhost:{}?ca={}", server.addr.port(), text(&roots));
    // TLS 1.3 lets the client find out only when it reads.
    let anonymous = connect(&plain).await.unwrap();
    let mut s = Session::over(anonymous, Lines::lf());
    s.feed("hello").unwrap();
    assert!(soon(s.next()).await.is_err());
    let remote = format!("{plain}&cert={}&key={}&alpn=other/2,echo/1", text(&cert), text(&key));
    let connection = connect(&remote).await.unwrap();
    assert_eq!(connection.tls().unwrap().alpn(), Some(&b"echo/1"[..]));
    answers(connection).await;
    server.end().await;
}

#[tokio::test]
async fn a_file_that_can_not_be_read_is_named() {
    let error = fails("tls:localhost:1?ca=/nowhere/ca.pem").await;
    assert!(error.contains("Connection refused") || error.contains("/nowhere/ca.pem"), "{error}");
    let error = ClientTls::new().ca("/nowhere/ca.pem").load().unwrap_err();
    assert_eq!(error.path().unwrap().to_str(), Some("/nowhere/ca.pem"));
    for (text, problem) in [
        ("tls:a:1?cert=/c", "cert is given without key"),
        ("tls:a:1?key=/k", "key is given without cert"),
        ("tls+unix:/x?ca=/c", "there is no name to verify the server's certificate by"),
        ("tls:a:1?certs=/c", "the option \"certs\" is unknown"),
        ("tls:a:1?ca=", "the option ca has no value"),
    ] {
        let error = text.parse::<Remote>().unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
}

/// A server whose sessions become encrypted, and then answer.
async fn starttls(mut s: Session<Lines>, tls: TlsConfig, behind: &'static str) -> Result {
    while let Some(line) = s.next().await? {
        if line == "STARTTLS" {
            s.feed("go ahead")?;
            if !behind.is_empty() {
                s.send(behind).await?;
            }
            s.upgrade_tls(&tls).await?;
        } else {
            s.feed(line)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_session_becomes_encrypted_by_the_clients_side_too() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let tls = localhost(&ca, &folder);
    let server = Running::plain(session(Lines::lf(), move |s| starttls(s, tls.clone(), ""))).await;
    let client = ClientTls::new().ca_pem(ca.pem()).name("localhost");
    let mut s = Session::over(connect(server.addr).await.unwrap(), Lines::lf());
    s.feed("STARTTLS").unwrap();
    assert_eq!(soon(s.next()).await.unwrap().unwrap(), "go ahead");
    soon(s.upgrade_tls(&client)).await.unwrap();
    assert_eq!(s.tls().unwrap().server_name(), Some("localhost"));
    s.feed("secret").unwrap();
    assert_eq!(soon(s.next()).await.unwrap().unwrap(), "secret");
    s.close().await.unwrap();
    server.end().await;
}

#[tokio::test]
async fn an_answer_that_came_in_plaintext_behind_the_go_ahead_is_never_taken_for_an_encrypted_one()
{
    let (ca, folder) = (Ca::new(), Folder::new());
    let tls = localhost(&ca, &folder);
    let server =
        Running::plain(session(Lines::lf(), move |s| starttls(s, tls.clone(), "250 injected")))
            .await;
    let client = ClientTls::new().ca_pem(ca.pem()).name("localhost");
    let mut s = Session::over(connect(&server.memory).await.unwrap(), Lines::lf());
    s.feed("STARTTLS").unwrap();
    assert_eq!(soon(s.next()).await.unwrap().unwrap(), "go ahead");
    let error = soon(s.upgrade_tls(&client)).await.unwrap_err();
    assert!(error.downcast_ref::<ropewalk::SessionError>().is_some(), "{error}");
    assert!(!matches!(soon(s.next()).await, Ok(Some(_))));
    s.abort();
    server.end().await;
}
