//! The names in the certificates of peers: read, stored, and admitted by.

use std::net::IpAddr;

use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DnType, SanType};
use ropewalk::connection::{Identity, IdentityRule};
use ropewalk::layer::{AccessLayer, AccessRules, access::Verdict};
use ropewalk::{CloseReason, RawBytes, Result, Server, Session, session};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::encrypted::{Ca, Client, Folder, Issued, Running, localhost, soon};

fn ia5(text: &str) -> Ia5String {
    text.try_into().unwrap()
}

/// A certificate with this common name and these URIs, and names of the other kinds.
fn issue(ca: &Ca, common_name: &str, uris: &[&str]) -> Issued {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.subject_alt_names = vec![
        SanType::DnsName(ia5("Web.Example.org")),
        SanType::Rfc822Name(ia5("ann@example.org")),
        SanType::IpAddress("192.0.2.7".parse().unwrap()),
        SanType::IpAddress("2001:db8::7".parse().unwrap()),
    ];
    params.subject_alt_names.extend(uris.iter().map(|uri| SanType::URI(ia5(uri))));
    ca.issue_params(&params)
}

fn rule(text: &str) -> IdentityRule {
    text.parse().unwrap()
}

#[test]
fn every_kind_of_name_is_read() {
    let ca = Ca::new();
    let issued = issue(&ca, "backup", &["spiffe://example.org/web"]);
    let identity = Identity::from_der(&issued.der).unwrap();
    assert_eq!(identity.common_name(), Some("backup"));
    assert_eq!(identity.dns_names(), ["web.example.org"]);
    assert_eq!(identity.emails(), ["ann@example.org"]);
    assert_eq!(
        identity.ips(),
        ["192.0.2.7", "2001:db8::7"].map(|ip| ip.parse::<IpAddr>().unwrap())
    );
    assert_eq!(identity.uris(), ["spiffe://example.org/web"]);
    assert_eq!(identity.spiffe_id(), Some("spiffe://example.org/web"));
    let several = Identity::from_der(
        &issue(&ca, "x", &["spiffe://example.org/a", "https://example.org"]).der,
    )
    .unwrap();
    assert_eq!((several.spiffe_id(), several.uris().len()), (None, 2));
    let web = Identity::from_der(&issue(&ca, "x", &["https://example.org"]).der).unwrap();
    assert_eq!(web.spiffe_id(), None);
    for der in [&b""[..], b"0", &issued.der[..issued.der.len() - 1], &[0x30; 1000]] {
        assert_eq!(
            Identity::from_der(der).unwrap_err().to_string(),
            "this is not an X.509 certificate in DER"
        );
    }
}

#[test]
fn a_rule_matches_a_whole_name_of_its_kind_or_by_a_star() {
    let ca = Ca::new();
    let identity =
        Identity::from_der(&issue(&ca, "backup", &["spiffe://example.org/web/1"]).der).unwrap();
    for matching in [
        "cn=backup",
        "dns=WEB.example.org",
        "email=ann@example.org",
        "uri=spiffe://example.org/web/1",
        "spiffe=spiffe://example.org/web/1",
        "spiffe=spiffe://example.org/web/*",
        "uri=spiffe://example.org/*",
    ] {
        assert!(rule(matching).matches(&identity), "{matching}");
    }
    for other in [
        "cn=back",
        "cn=back*",
        "cn=web.example.org",
        "dns=backup",
        "dns=example.org",
        "dns=*/",
        "email=Ann@example.org",
        "spiffe=spiffe://example.org/web",
        "spiffe=spiffe://example.org/web/1/*",
        "spiffe=spiffe://example.org/we*",
        "uri=spiffe://example.com/*",
    ] {
        assert!(!rule(other).matches(&identity), "{other}");
    }
    let two = Identity::from_der(
        &issue(&ca, "x", &["spiffe://example.org/a", "spiffe://example.org/b"]).der,
    )
    .unwrap();
    assert!(!rule("spiffe=spiffe://example.org/a").matches(&two), "it has no SPIFFE ID");
    assert!(rule("uri=spiffe://example.org/a").matches(&two));
    for bad in ["", "cn", "cn=", "ip=192.0.2.7", "spiffe=https://example.org", "CN=x"] {
        let message = bad.parse::<IdentityRule>().unwrap_err().to_string();
        assert!(message.contains("write cn=, dns=, email=, uri= or spiffe=spiffe://"), "{message}");
    }
}

#[test]
fn rules_with_names_are_parsed_beside_rules_for_networks() {
    let text = "identity\tcn=backup\nallow 192.0.2.0/24\nidentity  spiffe=spiffe://example.org/*  # all of ours\ndeny all";
    let rules: AccessRules = text.parse().unwrap();
    let built =
        AccessRules::deny_all().allow("192.0.2.0/24".parse::<ropewalk::layer::IpNet>().unwrap());
    assert_eq!(
        rules,
        built.identity(rule("cn=backup")).identity(rule("spiffe=spiffe://example.org/*"))
    );
    assert_eq!(rules.of_identity(None), Verdict::Deny);
    assert_eq!("allow all".parse::<AccessRules>().unwrap().of_identity(None), Verdict::Allow);
    let error = "allow all\nidentity x=y".parse::<AccessRules>().unwrap_err();
    assert_eq!(error.line(), 2);
    assert!(error.to_string().starts_with("line 2: x=y is not a name in a certificate"), "{error}");
}

/// What a client of this server hears; `None` if it is refused.
async fn said(running: &Running, client: Client) -> Option<String> {
    let mut stream = client.tcp(running.addr).await.unwrap();
    let mut said = String::new();
    // A refused peer may find the connection closed.
    let _ = stream.write_all(b"?").await;
    let _ = soon(stream.read_to_string(&mut said)).await;
    Some(said).filter(|said| !said.is_empty())
}

#[tokio::test]
async fn peers_are_admitted_by_their_certificates_and_the_service_knows_their_names() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let tls = localhost(&ca, &folder).optional_client_ca(folder.write("ca.pem", ca.pem()));
    let access =
        AccessLayer::new("identity spiffe=spiffe://example.org/web/*\nallow all".parse().unwrap());
    let whoami = session(RawBytes, async |mut s: Session<RawBytes>| -> Result {
        s.next().await?;
        let identity = s.info().get::<Identity>();
        s.feed(
            identity
                .and_then(|identity| identity.spiffe_id().map(str::to_owned))
                .unwrap_or_else(|| "nobody".to_owned()),
        )
    });
    let server = Server::new()
        .listen(ropewalk::Endpoint::tcp(([127, 0, 0, 1], 0).into()).tls(tls))
        .layer(access.clone());
    let server = server.serve(whoami).bind().await.unwrap();
    let handle = server.handle();
    let ropewalk::Addr::Tcp(addr) = handle.addresses()[0] else { panic!("no port") };
    let (_, memory) = ropewalk::memory::endpoint();
    let running = Running { handle, addr, memory, task: tokio::spawn(server) };
    let client = || Client::new(&ca, "localhost");
    let web = issue(&ca, "x", &["spiffe://example.org/web/1"]);
    let other = issue(&ca, "x", &["spiffe://example.org/other"]);
    assert_eq!(
        said(&running, client().identity(&web)).await.as_deref(),
        Some("spiffe://example.org/web/1")
    );
    assert_eq!(said(&running, client().identity(&other)).await, None);
    assert_eq!(said(&running, client()).await, None);
    // Without such rules all are served, and the names are there.
    access.replace(AccessRules::allow_all());
    assert_eq!(
        said(&running, client().identity(&other)).await.as_deref(),
        Some("spiffe://example.org/other")
    );
    assert_eq!(said(&running, client()).await.as_deref(), Some("nobody"));
    let counts = running.handle.counts();
    assert_eq!(counts.closed(CloseReason::AccessDenied), 2);
    running.end().await;
}
