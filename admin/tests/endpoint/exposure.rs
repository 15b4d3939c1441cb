//! Where the endpoint may listen.

use std::os::unix::fs::PermissionsExt;

use ropewalk::{Endpoint, TlsConfig};
use ropewalk_admin::Admin;

use crate::common::{TOKEN, Watched, bearer, exchange, spawned, token_file};

fn certificate() -> (rcgen::CertifiedKey<rcgen::KeyPair>, TlsConfig) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let tls = TlsConfig::pem(made.cert.pem(), made.signing_key.serialize_pem());
    (made, tls)
}

#[tokio::test]
async fn an_address_that_others_can_reach_needs_a_token_and_tls() {
    let watched = Watched::start().await;
    let (_made, tls) = certificate();
    let plain: Endpoint = "tcp:0.0.0.0:0".parse().unwrap();
    let encrypted = plain.clone().tls(tls);
    let (_dir, file) = token_file();
    for (endpoint, token, missing) in [
        (&plain, false, &["encrypt it", "token_file"][..]),
        (&plain, true, &["encrypt it"]),
        (&encrypted, false, &["token_file"]),
    ] {
        let admin = Admin::new().listen(endpoint.clone());
        let admin = if token { admin.token_file(&file) } else { admin };
        let error = admin.bind(&watched.handle).await.unwrap_err().to_string();
        for words in missing.iter().chain(&["other machines", "ssh -L"]) {
            assert!(error.contains(words), "{error}");
        }
        assert_eq!(error.contains("token_file"), missing.contains(&"token_file"), "{error}");
    }
    let both =
        Admin::new().listen(encrypted).token_file(&file).bind(&watched.handle).await.unwrap();
    assert_eq!(both.handle().addresses().len(), 1);
}

#[tokio::test]
async fn one_that_also_takes_plain_text_is_not_encrypted() {
    let watched = Watched::start().await;
    let (_made, tls) = certificate();
    let endpoint = "tcp:0.0.0.0:0".parse::<Endpoint>().unwrap().tls(tls.accept_plain(true));
    let (_dir, file) = token_file();
    let bound = Admin::new().listen(endpoint).token_file(&file).bind(&watched.handle).await;
    let error = bound.unwrap_err().to_string();
    assert!(error.contains("encrypt it") && error.contains("plain=true"), "{error}");
}

#[tokio::test]
async fn an_address_is_what_it_means_however_it_is_written() {
    let watched = Watched::start().await;
    for refused in ["tcp:0", "tcp:[::]:0", "tcp:[::ffff:0.0.0.0]:0", "tcp:[::]:0?v6only=true"] {
        let error = Admin::new().listen(refused).bind(&watched.handle).await.unwrap_err();
        assert!(error.to_string().contains("other machines"), "{refused}: {error}");
    }
    for bound in ["tcp:localhost:0", "tcp:[::ffff:127.0.0.1]:0", "tcp:127.255.255.254:0"] {
        drop(Admin::new().listen(bound).bind(&watched.handle).await.unwrap());
    }
}

#[tokio::test]
async fn an_endpoint_that_its_own_handle_adds_is_not_answered_on() {
    let watched = Watched::start().await;
    let asked = crate::common::Asked::tcp(&watched).await;
    assert_eq!(asked.get("/healthz").await.status, 200);
    let number = asked.handle.add_endpoint("main", "tcp:0.0.0.0:0").await.unwrap();
    let address = asked.handle.endpoints()[number].address().to_string();
    let address = address.replace("tcp:0.0.0.0", "127.0.0.1");
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET /status HTTP/1.1\r\nHost: localhost\r\n{}\r\n\r\n", bearer(TOKEN));
    let mut answer = Vec::new();
    drop(tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await);
    drop(tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer).await);
    assert_eq!(answer, b"");
}

#[tokio::test]
async fn loopback_is_where_it_listens_and_the_default() {
    let watched = Watched::start().await;
    for endpoint in ["tcp:127.0.0.1:0", "tcp:[::1]:0", "tcp:127.1.2.3:0"] {
        drop(Admin::new().listen(endpoint).bind(&watched.handle).await.unwrap());
    }
    match Admin::new().bind(&watched.handle).await {
        Ok(admin) => assert_eq!(admin.handle().addresses()[0].to_string(), "tcp:127.0.0.1:9901"),
        // Another process may have the port.
        Err(error) => assert!(error.to_string().contains("tcp:127.0.0.1:9901"), "{error}"),
    }
    let error = Admin::new().listen("127.0.0.1").bind(&watched.handle).await.unwrap_err();
    assert!(!error.to_string().is_empty());
}

#[tokio::test]
async fn sixteen_handshakes_may_be_under_way() {
    let watched = Watched::start().await;
    let bound = Admin::new().listen("tcp:127.0.0.1:0").bind(&watched.handle).await.unwrap();
    assert_eq!(bound.handle().max_preambles(), 16);
}

#[tokio::test]
async fn a_unix_socket_is_for_its_user_unless_the_endpoint_has_a_mode() {
    let watched = Watched::start().await;
    let (dir, _) = token_file();
    for (options, mode) in [("", 0o600), ("?mode=660", 0o660), ("?backlog=5", 0o600)] {
        let path = dir.path().join("admin.sock");
        let admin = Admin::new().listen(format!("unix:{}{options}", path.display()));
        let bound = admin.bind(&watched.handle).await.unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, mode, "{options}");
        drop(bound);
    }
}

#[tokio::test]
async fn a_unix_socket_that_all_users_may_connect_to_is_like_tcp_and_so_is_one_behind_a_proxy() {
    let watched = Watched::start().await;
    let (dir, file) = token_file();
    for (scheme, mode, status) in
        [("unix", 660, 200), ("unix", 666, 401), ("unix", 662, 401), ("proxy+unix", 600, 401)]
    {
        let path = dir.path().join("admin.sock");
        let endpoint = format!("{scheme}:{}?mode={mode}", path.display());
        let admin = Admin::new().listen(endpoint).token_file(&file);
        let asked = spawned(admin.bind(&watched.handle).await.unwrap());
        // A header without a client, as a proxy sends it for itself.
        let header = if scheme == "unix" { "" } else { "PROXY UNKNOWN\r\n" };
        for (path, status) in [("/healthz", 200), ("/status", status), ("/connections", status)] {
            let request = format!(
                "{header}GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            );
            assert_eq!(asked.raw(&request).await.status, status, "{scheme} {mode} {path}");
        }
        asked.handle.stop();
        asked.handle.ended().await;
    }
}

#[tokio::test]
async fn an_encrypted_endpoint_answers_by_its_address_and_by_its_name() {
    let watched = Watched::start().await;
    let (made, tls) = certificate();
    let endpoint = "tcp:0.0.0.0:0".parse::<Endpoint>().unwrap().tls(tls);
    let (_dir, file) = token_file();
    let admin = Admin::new().listen(endpoint).token_file(file).host("admin.example.org");
    let asked = spawned(admin.bind(&watched.handle).await.unwrap());
    let mut roots = tokio_rustls::rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    for (host, status) in [
        ("127.0.0.1", 200),
        ("192.0.2.7:9901", 200),
        ("admin.example.org", 200),
        ("evil.example", 403),
    ] {
        let stream = crate::common::encrypted(&asked, roots.clone()).await;
        let token = bearer(TOKEN);
        let request =
            format!("GET /status HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{token}\r\n\r\n");
        assert_eq!(exchange(stream, &request).await.status, status, "{host}");
    }
    // Plain text is not answered.
    let port: u16 =
        asked.handle.addresses()[0].to_string().rsplit(':').next().unwrap().parse().unwrap();
    let tcp = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let refused =
        tokio::spawn(exchange(tcp, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
    assert!(refused.is_err());
}
