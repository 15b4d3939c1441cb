//! The same with each provider of cryptography that is compiled in: ring, and with the feature
//! `aws-lc` AWS-LC as well. `cargo test --features aws-lc --test tls` runs all other tests with that
//! one.

use std::io;
use std::sync::Arc;

use ropewalk::tls::ClientTls;
use ropewalk::{
    Bytes, ConnectionService, Lines, RawBytes, Remote, Session, TlsConfig, connect, framed,
    reply_fn, session,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::encrypted::{Ca, Client, Folder, Issued, Running, echo, localhost, providers, soon};

pub(super) fn service() -> impl ConnectionService {
    framed(RawBytes, reply_fn(|bytes: Bytes| bytes))
}

/// Chain and key in one file.
fn both(issued: &Issued) -> String {
    format!("{}{}", issued.cert, issued.key)
}

/// A handshake and an echo, after which the client has what it needs to resume the session.
pub(super) async fn shake(
    connector: &TlsConnector,
    running: &Running,
) -> io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(running.addr).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = soon(connector.connect(name, socket)).await?;
    echo(&mut stream, b"hello").await?;
    Ok(stream)
}

pub(super) async fn kind(connector: &TlsConnector, running: &Running) -> HandshakeKind {
    shake(connector, running).await.unwrap().get_ref().1.handshake_kind().unwrap()
}

#[tokio::test]
async fn both_versions_a_folder_and_a_reload_work_with_each() {
    for (name, provider) in providers() {
        let (ca, folder) = (Ca::new(), Folder::new());
        let (old, new) = (ca.issue(["localhost"]), ca.issue(["localhost"]));
        folder.write("x.pem", both(&old));
        let running =
            Running::tls(TlsConfig::folder(folder.path()).provider(provider), service()).await;
        let shown = async |issued: &Issued| {
            for version in [&TLS12, &TLS13] {
                let connector = Client::new(&ca, "localhost").version(version).connector();
                let stream = shake(&connector, &running).await.unwrap();
                let shown = &stream.get_ref().1.peer_certificates().unwrap()[0];
                assert!(**shown == issued.der, "{name}");
            }
        };
        shown(&old).await;
        folder.write("x.pem", "half a file");
        assert!(running.handle.reload().await.is_err());
        shown(&old).await;
        folder.write("x.pem", both(&new));
        running.handle.reload().await.unwrap();
        shown(&new).await;
        running.end().await;
    }
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_from_the_next_reload_on_and_its_session_is_not_resumed() {
    for (name, provider) in providers() {
        let (ca, folder, people) = (Ca::new(), Folder::new(), Ca::new());
        let people_pem = folder.write("people.pem", people.pem());
        let crl = folder.write("crl.pem", people.revoke(&[1]));
        for (tickets, optional) in [(false, false), (true, false), (false, true)] {
            folder.write("crl.pem", people.revoke(&[1]));
            let tls = localhost(&ca, &folder).provider(Arc::clone(&provider)).tickets(tickets);
            let tls = match optional {
                true => tls.optional_client_ca(&people_pem),
                false => tls.client_ca(&people_pem),
            };
            let running = Running::tls(tls.crl(&crl), service()).await;
            for version in [&TLS12, &TLS13] {
                folder.write("crl.pem", people.revoke(&[1]));
                running.handle.reload().await.unwrap();
                let client = |n| {
                    let client = Client::new(&ca, "localhost").version(version);
                    client.identity(&people.issue_numbered("someone", n)).connector()
                };
                let (revoked, other) = (client(1), client(2));
                let refused = shake(&revoked, &running).await.unwrap_err().to_string();
                assert!(refused.contains("CertificateRevoked"), "{name}: {refused}");
                assert_eq!(kind(&other, &running).await, HandshakeKind::Full, "{name}");
                assert_eq!(kind(&other, &running).await, HandshakeKind::Resumed, "{name}");
                folder.write("crl.pem", people.revoke(&[1, 2]));
                running.handle.reload().await.unwrap();
                let refused = shake(&other, &running).await.unwrap_err().to_string();
                assert!(refused.contains("CertificateRevoked"), "{name}: {refused}");
            }
            // A list that can't be used changes nothing.
            let other = Client::new(&ca, "localhost").identity(&people.issue_numbered("x", 3));
            for bad in ["", "-----BEGIN X509 CRL-----\nMIGHAoGBAP//\n-----END X509 CRL-----\n"] {
                folder.write("crl.pem", bad);
                let error = running.handle.reload().await.unwrap_err().to_string();
                assert!(error.contains("crl.pem") && error.contains("revocation lists"), "{error}");
                shake(&other.connector(), &running).await.unwrap();
            }
            // An authority without a list is not known to revoke nothing.
            folder.write("crl.pem", Ca::new().revoke(&[]));
            running.handle.reload().await.unwrap();
            let refused = shake(&other.connector(), &running).await.unwrap_err().to_string();
            assert!(refused.contains("CA") || refused.contains("Certificate"), "{refused}");
            running.end().await;
        }
    }
}

fn by_hand(issued: &Issued, provider: &Arc<CryptoProvider>) -> ServerConfig {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let chain = CertificateDer::from_pem_slice(issued.cert.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .unwrap()
}

#[tokio::test]
async fn a_configuration_made_by_hand_is_made_again_by_a_reload_or_stays_as_it_is() {
    for (name, provider) in providers() {
        let (ca, folder) = (Ca::new(), Folder::new());
        let certificates = [ca.issue(["localhost"]), ca.issue(["localhost"])];
        let which = folder.write("which", "0");
        let (of, provider) = (certificates.clone(), Arc::clone(&provider));
        let made = TlsConfig::made_by(move || {
            let which: usize = std::fs::read_to_string(&which)?.parse()?;
            Ok(by_hand(&of[which], &provider))
        });
        let running = Running::tls(made.alpn(["echo/1"]).tickets(true), service()).await;
        let connector = Client::new(&ca, "localhost").alpn(&["echo/1"]).connector();
        let shown = async |which: usize| {
            let stream = shake(&connector, &running).await.unwrap();
            let session = stream.get_ref().1;
            assert_eq!(session.alpn_protocol(), Some(&b"echo/1"[..]));
            assert!(*session.peer_certificates().unwrap()[0] == certificates[which].der, "{name}");
        };
        shown(0).await;
        folder.write("which", "no number");
        let error = running.handle.reload().await.unwrap_err().to_string();
        assert!(error.contains("invalid digit") && error.contains("made_by"), "{error}");
        shown(0).await;
        folder.write("which", "1");
        running.handle.reload().await.unwrap();
        shown(1).await;
        running.end().await;
    }
}

#[tokio::test]
async fn what_the_program_has_made_is_no_place_for_a_client_ca() {
    let (ca, provider) = (Ca::new(), &providers()[0].1);
    let made = TlsConfig::rustls(by_hand(&ca.issue(["localhost"]), provider));
    let error = made.client_ca("ca.pem").load().unwrap_err().to_string();
    assert!(error.contains("made by hand"), "{error}");
    let folder = Folder::new();
    let crl = folder.write("crl.pem", ca.revoke(&[]));
    let error = localhost(&ca, &folder).crl(crl).load().unwrap_err().to_string();
    assert!(error.contains("crl.pem") && error.contains("client-ca"), "{error}");
}

/// Without tickets the server keeps 256 sessions, and TLS 1.3 takes two for each client.
#[tokio::test]
async fn tickets_resume_more_sessions_than_the_server_keeps_until_the_next_reload() {
    for (name, provider) in providers() {
        let (ca, folder) = (Ca::new(), Folder::new());
        for (tickets, then) in [(false, HandshakeKind::Full), (true, HandshakeKind::Resumed)] {
            let tls = localhost(&ca, &folder).provider(Arc::clone(&provider)).tickets(tickets);
            let running = Running::tls(tls, service()).await;
            for version in [&TLS12, &TLS13] {
                let connector = || Client::new(&ca, "localhost").version(version).connector();
                let first = connector();
                assert_eq!(kind(&first, &running).await, HandshakeKind::Full);
                for _ in 0..260 {
                    kind(&connector(), &running).await;
                }
                assert_eq!(kind(&first, &running).await, then, "{name} {version:?}");
                running.handle.reload().await.unwrap();
                assert_eq!(kind(&first, &running).await, HandshakeKind::Full, "{name}");
            }
            running.end().await;
        }
    }
}

#[tokio::test]
async fn the_provider_that_is_named_is_used_on_both_ends_and_for_starttls() {
    for (name, provider) in providers() {
        // The last of the ciphers for TLS 1.3, which no default would choose.
        let mut few = CryptoProvider::clone(&provider);
        few.cipher_suites.retain(|suite| suite.tls13().is_some());
        let suite = few.cipher_suites.pop().unwrap();
        few.cipher_suites = vec![suite];
        let (ca, folder) = (Ca::new(), Folder::new());
        let tls = localhost(&ca, &folder).provider(few.clone());
        let running = Running::tls(tls.clone(), service()).await;
        let any = Client::new(&ca, "localhost");
        let stream = any.tcp(running.addr).await.unwrap();
        let settled = stream.get_ref().1.negotiated_cipher_suite().unwrap();
        assert_eq!(settled.suite(), suite.suite(), "{name}");
        assert!(any.version(&TLS12).tcp(running.addr).await.is_err(), "it has none for that");
        // Our own client, with the same.
        let client = ClientTls::new().ca_pem(ca.pem()).name("localhost").provider(few.clone());
        let connection =
            soon(connect(Remote::from(&running.memory).tls(client.clone()))).await.unwrap();
        let mut s = Session::over(connection, Lines::lf());
        s.feed("hello").unwrap();
        assert_eq!(soon(s.next()).await.unwrap().unwrap(), "hello");
        s.close().await.unwrap();
        running.end().await;
        // STARTTLS.
        let config = tls.clone();
        let upgraded = session(Lines::lf(), move |mut s: Session<Lines>| {
            let tls = config.clone();
            async move { s.upgrade_tls(&tls).await }
        });
        let running = Running::plain(upgraded).await;
        let stream = Client::new(&ca, "localhost").tcp(running.addr).await.unwrap();
        let settled = stream.get_ref().1.negotiated_cipher_suite().unwrap();
        assert_eq!(settled.suite(), suite.suite(), "{name}");
        // A server that speaks only what the client does not.
        let other = TLS12.version;
        let mut old = CryptoProvider::clone(&provider);
        old.cipher_suites.retain(|suite| suite.version().version == other);
        let running = Running::tls(localhost(&ca, &folder).provider(old), service()).await;
        assert!(soon(connect(Remote::from(&running.memory).tls(client))).await.is_err());
        let mut stream = Client::new(&ca, "localhost").tcp(running.addr).await.unwrap();
        echo(&mut stream, b"x").await.unwrap();
    }
}

#[test]
fn a_configuration_says_whether_its_cryptography_is_validated() {
    let (ca, folder) = (Ca::new(), Folder::new());
    for (name, provider) in providers() {
        let tls = localhost(&ca, &folder).provider(Arc::clone(&provider));
        assert_eq!(tls.is_fips().unwrap(), provider.fips(), "{name}");
        assert!(name != "ring" || !provider.fips());
    }
    assert!(TlsConfig::files("missing.pem", "missing.pem").is_fips().is_err());
}

/// `.ci/run` sets the variable where it builds the tests with the feature `fips` of rustls.
#[test]
fn with_the_validated_aws_lc_a_configuration_is_fips_unless_it_names_another_provider() {
    if std::env::var_os("ROPEWALK_FIPS").is_none() {
        return;
    }
    let (ca, folder) = (Ca::new(), Folder::new());
    let people = folder.write("people.pem", ca.pem());
    let crl = folder.write("crl.pem", ca.revoke(&[1]));
    let tls = localhost(&ca, &folder);
    for validated in [tls.clone(), tls.clone().tickets(true).client_ca(people).crl(crl)] {
        assert!(validated.is_fips().unwrap(), "{validated:?}");
    }
    let (name, ring) = providers().remove(0);
    assert_eq!((name, tls.provider(ring).is_fips().unwrap()), ("ring", false));
}

#[test]
fn configurations_with_other_settings_are_not_equal() {
    let files = || TlsConfig::files("c.pem", "k.pem");
    let provider = providers().remove(0).1;
    let named = files().provider(Arc::clone(&provider));
    assert_eq!(named, files().provider(provider));
    for other in [
        files(),
        files().provider(providers().remove(0).1),
        named.clone().tickets(true),
        named.clone().client_ca("x").crl("x"),
    ] {
        assert_ne!(named, other);
    }
    let made = TlsConfig::made_by(|| Err("never".into()));
    assert_eq!(made, made.clone());
    assert_ne!(made, TlsConfig::made_by(|| Err("never".into())));
    assert!(made.load().unwrap_err().to_string().contains("never"));
}
