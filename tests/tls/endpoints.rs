//! TLS endpoints as strings, and certificates that can't be used: refused before anything listens.

use std::net::SocketAddr;
use std::path::Path;

use ropewalk::tls::{TlsError, rustls};
use ropewalk::{Bytes, Endpoint, RawBytes, Server, TlsConfig, framed, reply_fn};

use crate::encrypted::{self, Ca, Folder, text};

fn tcp(addr: &str) -> Endpoint {
    Endpoint::tcp(addr.parse().unwrap())
}

#[test]
fn each_form_of_string_is_the_endpoint_built_in_code_and_displays_as_it_was_written() {
    let files = || TlsConfig::files("c.pem", "/etc/k.pem");
    let table = [
        ("tls:8443?cert=c.pem&key=/etc/k.pem", tcp("0.0.0.0:8443").tls(files())),
        ("tls:[::1]:0?cert=c.pem&key=/etc/k.pem&backlog=7", tcp("[::1]:0").tls(files()).backlog(7)),
        (
            "tls:1.2.3.4:1?cert=c.pem&key=/etc/k.pem&client-ca=ca.pem&alpn=h2,http/1.1",
            tcp("1.2.3.4:1").tls(files().client_ca("ca.pem").alpn(["h2", "http/1.1"])),
        ),
        (
            "tls:1.2.3.4:1?cert=c.pem&key=/etc/k.pem&client-ca=ca.pem&crl=crl.pem&tickets=true",
            tcp("1.2.3.4:1").tls(files().client_ca("ca.pem").crl("crl.pem").tickets(true)),
        ),
        (
            "tls:1.2.3.4:1?cert=c.pem&key=/etc/k.pem&client-ca=ca.pem&client-cert=optional&plain=true",
            tcp("1.2.3.4:1").tls(files().optional_client_ca("ca.pem").accept_plain(true)),
        ),
        ("tls:8443?certs=/etc/certs", tcp("0.0.0.0:8443").tls(TlsConfig::folder("/etc/certs"))),
        ("tls:8443?certs=a%26b%25?c%2C=&alpn=x%2Cy,z", {
            tcp("0.0.0.0:8443").tls(TlsConfig::folder("a&b%?c,=").alpn(["x,y", "z"]))
        }),
    ];
    for (string, built) in table {
        assert_eq!(string.parse::<Endpoint>(), Ok(built.clone()), "{string}");
        assert_eq!(built.to_string(), string);
    }
    let folder = || TlsConfig::folder("x");
    for (text, built) in [
        (
            "tls+unix:/run/x?certs=x&mode=660&user=www-data",
            Endpoint::unix("/run/x").mode(0o660).user("www-data"),
        ),
        ("tls+unix:@x?certs=x&backlog=7", Endpoint::unix_abstract("x").backlog(7)),
        ("tls+systemd:web?certs=x", Endpoint::systemd("web")),
        ("tls+fd:3?certs=x", Endpoint::fd(3)),
        ("proxy+tls+unix:x?certs=x", Endpoint::unix("x").proxied([])),
        (
            "proxy+tls+systemd:0?certs=x&trust=::1",
            Endpoint::systemd("0").proxied(["::1/128".parse().unwrap()]),
        ),
    ] {
        let built = built.tls(folder());
        assert_eq!((text.parse(), built.to_string().as_str()), (Ok(built), text));
    }
    let named = "tls:localhost:8443?certs=x";
    assert_eq!(named.parse::<Endpoint>().unwrap().to_string(), named);
    // In any order, and each character by its number.
    let other = "tls:8443?key=%2Fetc/k.pem&cert=%63.pem".parse::<Endpoint>().unwrap();
    assert_eq!(other, "tls:8443?cert=c.pem&key=/etc/k.pem".parse().unwrap());
    // Without a string of their own.
    assert_eq!(
        Endpoint::unix("/run/x").tls(files()).to_string(),
        "tls+unix:/run/x?cert=c.pem&key=/etc/k.pem"
    );
    assert_eq!(
        tcp("1.2.3.4:5").tls(TlsConfig::pem("secret", "secret")).to_string(),
        "tls:1.2.3.4:5"
    );
    assert!(!format!("{:?}", TlsConfig::pem("secret", "secret")).contains("secret"));
}

#[test]
fn a_bad_string_is_quoted_with_the_fault_and_the_fix() {
    let table = [
        ("tls:8443", "there is no certificate", "write ?cert=FILE&key=FILE, or ?certs=FOLDER"),
        ("tls:8443?alpn=x", "there is no certificate", "write ?cert=FILE"),
        ("tls:", "no port", "write tls:8007, or tls:127.0.0.1:8007"),
        ("tls:localhost", "\"localhost\" has no port", "write tls:localhost:8007"),
        ("tls:[::1?certs=x", "\"[\" is not closed", "write tls:[::1]:8007"),
        ("tls:99999?certs=x", "port 99999 is over 65535", "write a port from 0"),
        ("tls:1?cert=x", "cert is given without key", "write key=FILE"),
        ("tls:1?key=x", "key is given without cert", "write cert=FILE"),
        ("tls:1?cert=x&key=x&certs=x", "certs goes with neither cert nor key", "write ?cert=FILE"),
        ("tls:1?certs=x&key=x", "certs goes with neither cert nor key", "write ?cert=FILE"),
        ("tls:1?certs=", "certs has no path", "write certs=PATH"),
        ("tls:1?cert&key=x", "cert has no path", "write cert=PATH"),
        ("tls:1?certs=x&certs=y", "certs is given twice", "keep one"),
        ("tls:1?certs=x&alpn=x&alpn=y", "alpn is given twice", "keep one"),
        ("tls:1?certs=x&client-ca=x&client-ca=y", "client-ca is given twice", "keep one"),
        ("tls:1?certs=x&crl=y", "crl goes with client-ca", "write client-ca=FILE too"),
        ("tls:1?certs=x&client-ca=y&crl=", "the option crl has no path", "write crl=PATH"),
        ("tls:1?certs=x&crl=x&crl=y", "crl is given twice", "keep one"),
        ("tls:1?certs=x&tickets=yes", "tickets=yes is unknown", "tickets=true"),
        ("tls:1?certs=x&tickets=true&tickets=true", "tickets is given twice", "keep one"),
        ("tls:1?certs=x&alpn=", "a protocol of 0 bytes in alpn=", "write names, such as alpn=h2"),
        ("tls:1?certs=x&alpn=a,,b", "a protocol of 0 bytes in alpn=a,,b", "write names"),
        ("tls:1?certs=%zz", "\"%zz\" is not % and two", "write %25 for a %"),
        (
            "tls:1?certs=x&mode=660",
            "the option \"mode\" is unknown",
            "are cert, key, certs, client-ca, client-cert, crl, alpn, tickets, plain, backlog",
        ),
        ("tls+tcp:1?certs=x", "the scheme \"tls+tcp\" is unknown", "TCP with TLS is tls:"),
        ("tls+udp:1?certs=x", "the scheme \"udp\" is unknown", "the schemes are tcp:, tls:"),
        ("tls+unix:", "there is no path", "write tls+unix:/run/x.sock"),
        ("tls+unix:x", "there is no certificate", "write ?cert=FILE"),
        (
            "tls+fd:3?certs=x&mode=660",
            "the option \"mode\" is unknown",
            "are cert, key, certs, client-ca, client-cert, crl, alpn, tickets, plain",
        ),
        ("tls+tls:1?certs=x", "the scheme \"tls+tls\" is unknown", "TCP with TLS is tls:"),
        (
            "tls+proxy+tcp:1?certs=x",
            "the scheme \"proxy+tcp\" is unknown",
            "the schemes are tcp:, tls:",
        ),
        ("tls:1?certs=x&", "an option is missing", "the options of tls: are cert"),
        ("tcp:1?certs=x", "the option \"certs\" is unknown", "the options of tcp: are backlog"),
        ("TLS:1?certs=x", "the scheme \"TLS\" is unknown", "write tls: in lower case"),
    ];
    for (text, problem, fix) in table {
        let message = text.parse::<Endpoint>().unwrap_err().to_string();
        assert!(message.starts_with(&format!("bad endpoint {text:?}: ")), "{message}");
        assert!(message.contains(problem) && message.contains(fix), "{message}");
    }
}

/// Invalid files, each with its error.
fn bad(ca: &Ca, folder: &Folder) -> Vec<(TlsConfig, String, &'static str)> {
    let (one, other) = (ca.issue(["localhost"]), ca.issue(["localhost"]));
    let cert = folder.write("cert.pem", &one.cert);
    let key = folder.write("key.pem", &one.key);
    let wrong = folder.write("wrong.pem", &other.key);
    let empty = folder.write("empty.pem", "");
    let half = folder.write("half.pem", &one.cert[..one.cert.len() / 2]);
    let junk =
        folder.write("junk.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let unnamed = ca.issue([]);
    let unnamed = folder.write("unnamed/x.pem", format!("{}{}", unnamed.cert, unnamed.key));
    let none = folder.write("none/readme", "").parent().unwrap().to_owned();
    let lonely = folder.write("lonely/x.crt", &one.cert).parent().unwrap().to_owned();
    let files = |cert: &Path, key: &Path| TlsConfig::files(cert, key);
    let named = |path: &Path| format!("{path:?}");
    let missing = folder.join("missing.pem");
    vec![
        (files(&missing, &key), named(&missing), "check the path"),
        (files(&cert, &missing), named(&missing), "check the path"),
        (files(folder.path(), &key), named(folder.path()), "check that it is a readable file"),
        (files(&empty, &key), named(&empty), "there is no certificate in it"),
        (files(&key, &key), named(&key), "there is no certificate in it"),
        (files(&cert, &cert), named(&cert), "there is no private key in it"),
        (files(&half, &key), named(&half), "it must hold the chain in PEM"),
        (files(&junk, &key), named(&junk), "it must hold the chain in PEM"),
        (files(&cert, &wrong), named(&wrong), "it is not the key of the certificate in"),
        (files(&cert, &key).client_ca(&missing), named(&missing), "check the path"),
        (files(&cert, &key).client_ca(&key), named(&key), "there is no certificate in it"),
        (TlsConfig::folder(&missing), named(&missing), "check the path"),
        (TlsConfig::folder(&none), named(&none), "there is no certificate in it"),
        (TlsConfig::folder(&lonely), named(&lonely.join("x.key")), "check the path"),
        (TlsConfig::folder(unnamed.parent().unwrap()), named(&unnamed), "there is no DNS name"),
        (
            TlsConfig::pem(&one.cert, &other.key),
            "bad TLS configuration".to_owned(),
            "it is not the key",
        ),
    ]
}

#[tokio::test]
async fn certificates_that_are_no_good_are_named_before_anything_listens() {
    let (ca, folder) = (Ca::new(), Folder::new());
    for (tls, place, problem) in bad(&ca, &folder) {
        // Whether it was bound can be told afterwards: it can be bound but once.
        let (other, _connector) = ropewalk::memory::endpoint();
        let server =
            Server::new().listen(other.clone()).listen(tcp("127.0.0.1:0").tls(tls.clone()));
        let server = server.serve(framed(RawBytes, reply_fn(|bytes: Bytes| bytes)));
        let error = server.bind().await.unwrap_err().to_string();
        assert!(error.starts_with("cannot bind tls:127.0.0.1:0"), "{error}");
        assert!(error.contains(&place) && error.contains(problem), "{error}");
        other.bind().await.unwrap();
        let error = tls.load().unwrap_err().to_string();
        assert!(error.contains(&place) && error.contains(problem), "{error}");
    }
}

#[tokio::test]
async fn a_configuration_made_by_hand_is_taken_as_it_is() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    let by_hand = builder.with_no_client_auth().with_cert_resolver(std::sync::Arc::new(Nobody));
    let tls = TlsConfig::from(by_hand);
    assert_eq!(tls, tls.clone());
    tcp("127.0.0.1:0").tls(tls.clone()).bind().await.unwrap();
    let error: TlsError = tls.client_ca(folder.write("ca.pem", ca.pem())).load().unwrap_err();
    assert!(error.path().is_none() && error.to_string().contains("its own verifier"), "{error}");
}

/// Has no certificate for anybody.
#[derive(Debug)]
struct Nobody;

impl rustls::server::ResolvesServerCert for Nobody {
    fn resolve(
        &self,
        _: rustls::server::ClientHello<'_>,
    ) -> Option<std::sync::Arc<rustls::sign::CertifiedKey>> {
        None
    }
}

#[tokio::test]
async fn a_string_with_files_is_served() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let issued = ca.issue(["localhost"]);
    let pem = folder.write("both & more.pem", format!("{}{}", issued.key, issued.cert));
    let path = text(&pem).replace('&', "%26");
    let server =
        Server::new().listen(format!("tls:127.0.0.1:0?cert={path}&key={path}&alpn=echo/1"));
    let server =
        server.serve(framed(RawBytes, reply_fn(|bytes: Bytes| bytes))).bind().await.unwrap();
    let ropewalk::Addr::Tcp(addr) = server.handle().addresses()[0] else {
        panic!("no TCP address")
    };
    let addr: SocketAddr = addr;
    tokio::spawn(server);
    let mut stream =
        encrypted::Client::new(&ca, "localhost").alpn(&["echo/1"]).tcp(addr).await.unwrap();
    encrypted::echo(&mut stream, b"hello").await.unwrap();
}
