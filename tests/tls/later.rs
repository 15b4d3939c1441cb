//! What is still good later: a revocation list past its time, a ticket after a restart.

use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};

use super::providers::{kind, service, shake};
use crate::encrypted::{Ca, Client, Folder, Running, localhost};

#[tokio::test]
async fn a_list_past_its_next_update_still_refuses_those_in_it_and_no_other() {
    let (ca, folder, people) = (Ca::new(), Folder::new(), Ca::new());
    let crl = folder.write("crl.pem", people.revoke_until(&[1], 2025));
    let tls = localhost(&ca, &folder).client_ca(folder.write("people.pem", people.pem()));
    let running = Running::tls(tls.crl(&crl), service()).await;
    let shown = |n| {
        let client = Client::new(&ca, "localhost").identity(&people.issue_numbered("x", n));
        client.connector()
    };
    let refused = shake(&shown(1), &running).await.unwrap_err().to_string();
    assert!(refused.contains("CertificateRevoked"), "{refused}");
    shake(&shown(2), &running).await.unwrap();
    // A list with garbage behind it is no list, and nothing changes.
    let damaged = format!("{}-----BEGIN X509 CRL-----\nAAAA", people.revoke(&[1, 2]));
    folder.write("crl.pem", damaged);
    let error = running.handle.reload().await.unwrap_err().to_string();
    assert!(error.contains("crl.pem"), "{error}");
    shake(&shown(2), &running).await.unwrap();
    running.end().await;
}

/// Each process has keys of its own, so a ticket of another one is a handshake without a ticket.
#[tokio::test]
async fn a_ticket_of_the_process_before_is_no_error_and_resumes_nothing() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let tls = || {
        let files = (folder.join("cert.pem"), folder.join("key.pem"));
        ropewalk::TlsConfig::files(files.0, files.1).tickets(true)
    };
    drop(localhost(&ca, &folder));
    for version in [&TLS12, &TLS13] {
        let connector = Client::new(&ca, "localhost").version(version).connector();
        let before = Running::tls(tls(), service()).await;
        assert_eq!(kind(&connector, &before).await, HandshakeKind::Full);
        assert_eq!(kind(&connector, &before).await, HandshakeKind::Resumed);
        before.end().await;
        let after = Running::tls(tls(), service()).await;
        assert_eq!(kind(&connector, &after).await, HandshakeKind::Full);
        assert_eq!(kind(&connector, &after).await, HandshakeKind::Resumed);
        after.end().await;
    }
}
