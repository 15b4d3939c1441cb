//! The provider of cryptography that a program installs for its process. That is one for the whole
//! process.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "encrypted/mod.rs"]
mod encrypted;

use ropewalk::tls::ClientTls;
use ropewalk::{Bytes, RawBytes, Remote, connect, framed, reply_fn};
use rustls::crypto::CryptoProvider;

use crate::encrypted::{Ca, Client, Folder, Running, localhost, providers, soon};

#[tokio::test]
async fn the_provider_of_the_process_is_used_where_a_configuration_names_no_other() {
    let (_, provider) = providers().pop().unwrap();
    let mut few = CryptoProvider::clone(&provider);
    few.cipher_suites.retain(|suite| suite.tls13().is_some());
    let suite = few.cipher_suites.pop().unwrap();
    few.cipher_suites = vec![suite];
    few.install_default().unwrap();
    let (ca, folder) = (Ca::new(), Folder::new());
    let service = || framed(RawBytes, reply_fn(|bytes: Bytes| bytes));
    let tls = localhost(&ca, &folder);
    let running = Running::tls(tls.clone(), service()).await;
    let settled = async |running: &Running| {
        let stream = Client::new(&ca, "localhost").tcp(running.addr).await.unwrap();
        stream.get_ref().1.negotiated_cipher_suite().unwrap().suite()
    };
    assert_eq!(settled(&running).await, suite.suite());
    // A client of ours as well: it has no cipher for a server of TLS 1.2.
    let mut old = CryptoProvider::clone(&provider);
    old.cipher_suites.retain(|suite| suite.tls13().is_none());
    let other = Running::tls(tls.clone().provider(old), service()).await;
    let client = ClientTls::new().ca_pem(ca.pem()).name("localhost");
    assert!(soon(connect(Remote::from(&running.memory).tls(client.clone()))).await.is_ok());
    assert!(soon(connect(Remote::from(&other.memory).tls(client))).await.is_err());
    // One that is named comes first.
    let named = Running::tls(tls.provider(provider), service()).await;
    assert_ne!(settled(&named).await, suite.suite());
}
