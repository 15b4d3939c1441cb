//! Certificates that are read again while a server runs.

use std::fs;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use ropewalk::tls::TlsError;
use ropewalk::{
    Addr, Bytes, ConnectionService, Endpoint, Lines, RawBytes, Server, Session, TlsConfig, framed,
    reply_fn, session,
};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::encrypted::{Ca, Client, Folder, Issued, Running, echo, soon, text, until};
use crate::support::{self, Example};

fn service() -> impl ConnectionService {
    framed(RawBytes, reply_fn(|bytes: Bytes| bytes))
}

/// Chain and key in one file.
fn both(issued: &Issued) -> String {
    format!("{}{}", issued.cert, issued.key)
}

async fn shown(client: &Client, addr: std::net::SocketAddr) -> Vec<u8> {
    client.tcp(addr).await.unwrap().get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn a_reload_reaches_new_connections_and_leaves_the_open_ones_alone() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let (old, new) = (ca.issue(["localhost"]), ca.issue(["localhost"]));
    let pem = folder.write("x.pem", both(&old));
    let running = Running::tls(TlsConfig::files(&pem, &pem), service()).await;
    let client = Client::new(&ca, "localhost");
    let mut open = client.tcp(running.addr).await.unwrap();
    folder.write("x.pem", both(&new));
    assert!(shown(&client, running.addr).await == old.der);
    running.handle.reload().await.unwrap();
    assert!(shown(&client, running.addr).await == new.der);
    echo(&mut open, b"still here").await.unwrap();
}

#[tokio::test]
async fn a_bad_file_keeps_what_there_was_on_every_endpoint_and_says_so() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let (old, new) = (ca.issue(["localhost"]), ca.issue(["localhost"]));
    let pem = folder.write("x.pem", both(&old));
    let other = folder.write("other.pem", both(&old));
    let endpoint =
        |path| Endpoint::tcp(([127, 0, 0, 1], 0).into()).tls(TlsConfig::files(path, path));
    let server = Server::new()
        .listen(endpoint(&pem))
        .listen(endpoint(&other))
        .serve(service())
        .bind()
        .await
        .unwrap();
    let handle = server.handle();
    tokio::spawn(server);
    let client = Client::new(&ca, "localhost");
    let all_show = async |issued: &Issued| {
        for address in handle.addresses() {
            let Addr::Tcp(addr) = *address else { panic!("{address} is no TCP address") };
            assert!(shown(&client, addr).await == issued.der);
        }
    };
    let mixed = format!("{}{}", new.cert, old.key);
    let half = both(&new)[..600].to_owned();
    for (name, bad) in [("x.pem", ""), ("x.pem", &*half), ("x.pem", &mixed), ("other.pem", "")] {
        folder.write("x.pem", both(&new));
        folder.write("other.pem", both(&new));
        folder.write(name, bad);
        let error = handle.reload().await.unwrap_err();
        let path = error.downcast_ref::<TlsError>().unwrap().path().unwrap();
        assert_eq!(path.file_name().unwrap(), name, "{error}");
        all_show(&old).await;
    }
    fs::remove_file(&pem).unwrap();
    assert!(handle.reload().await.is_err());
    all_show(&old).await;
    folder.write("x.pem", both(&new));
    folder.write("other.pem", both(&new));
    handle.reload().await.unwrap();
    all_show(&new).await;
}

#[tokio::test]
async fn the_certificate_of_starttls_is_reloaded_with_the_server() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let (old, new) = (ca.issue(["localhost"]), ca.issue(["localhost"]));
    let pem = folder.write("x.pem", both(&old));
    let tls = TlsConfig::files(&pem, &pem);
    let config = tls.clone();
    let service = session(Lines::crlf(), move |mut s: Session<Lines>| {
        let tls = config.clone();
        async move { s.upgrade_tls(&tls).await }
    });
    let server = Server::new()
        .listen("tcp:127.0.0.1:0")
        .reload_tls(tls)
        .serve(service)
        .bind()
        .await
        .unwrap();
    let handle = server.handle();
    let Addr::Tcp(addr) = handle.addresses()[0] else { panic!("no TCP address") };
    tokio::spawn(server);
    let client = Client::new(&ca, "localhost");
    assert!(shown(&client, addr).await == old.der);
    folder.write("x.pem", both(&new));
    handle.reload().await.unwrap();
    assert!(shown(&client, addr).await == new.der);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_reloads_under_load_fail_no_handshake() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let certificates: Vec<Issued> = (0..4).map(|_| ca.issue(["localhost"])).collect();
    folder.write("a/fullchain.pem", &certificates[0].cert);
    folder.write("a/privkey.pem", &certificates[0].key);
    let running = Running::tls(TlsConfig::folder(folder.path()), service()).await;
    let (over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let connector = Client::new(&ca, "localhost").connector();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (over, done, connector, addr) =
                (Arc::clone(&over), Arc::clone(&done), connector.clone(), running.addr);
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let socket = TcpStream::connect(addr).await.unwrap();
                    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
                    let mut stream = soon(connector.connect(name, socket)).await.unwrap();
                    echo(&mut stream, b"hello").await.unwrap();
                    stream.shutdown().await.unwrap();
                    assert_eq!(soon(stream.read(&mut [0])).await.unwrap(), 0);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut refused = 0;
    for round in 0..100 {
        let issued = &certificates[round % 4];
        // The two files change one after the other: a reload in between must be refused.
        folder.write("a/fullchain.pem", &issued.cert);
        refused += usize::from(running.handle.reload().await.is_err());
        folder.write("a/privkey.pem", &issued.key);
        running.handle.reload().await.unwrap();
        let before = done.load(Ordering::Relaxed);
        until("somebody got through", || done.load(Ordering::Relaxed) > before).await;
    }
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(refused, 99);
    assert_eq!(running.handle.preambles().failed(), 0);
    running.end().await;
}

#[tokio::test]
async fn files_in_a_folder_that_are_no_certificates_keep_no_server_from_starting_or_reloading() {
    let ca = Ca::new();
    let (old, new) = (ca.issue(["localhost"]), ca.issue(["localhost"]));
    let half = &old.cert[..old.cert.len() / 2];
    let parameters = "-----BEGIN DH PARAMETERS-----\nMIGHAoGBAP//\n-----END DH PARAMETERS-----\n";
    let other = ca.issue(["other.example"]);
    // The name of a file, and its content.
    let strays: [(&str, &str); 9] = [
        ("ca.crt", &ca.pem()),
        ("chain.pem", &ca.pem()),
        ("dhparam.pem", parameters),
        (".new.pem", half),
        ("half.pem", half),
        ("empty.pem", ""),
        ("key.pem", &old.key),
        ("mixed/fullchain.pem", &other.cert),
        ("mixed/privkey.pem", &old.key),
    ];
    for (cert, key) in [
        ("tls.crt", "tls.key"),
        ("a/fullchain.pem", "a/privkey.pem"),
        ("fullchain.pem", "privkey.pem"),
    ] {
        for at_start in [true, false] {
            let folder = Folder::new();
            let add = || strays.iter().for_each(|(name, text)| drop(folder.write(name, text)));
            if at_start {
                add();
            }
            folder.write(cert, &old.cert);
            folder.write(key, &old.key);
            let running = Running::tls(TlsConfig::folder(folder.path()), service()).await;
            let client = Client::new(&ca, "localhost");
            assert!(shown(&client, running.addr).await == old.der, "{cert}");
            add();
            folder.write(cert, &new.cert);
            folder.write(key, &new.key);
            running.handle.reload().await.unwrap();
            assert!(shown(&client, running.addr).await == new.der, "{cert}");
            running.end().await;
        }
    }
}

#[tokio::test]
async fn a_certificate_that_is_in_use_is_not_lost_by_a_file_that_is_half_written() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let (one, other) = (ca.issue(["localhost"]), ca.issue(["other.example"]));
    let (new_one, new_other) = (ca.renew(&one), ca.issue(["other.example"]));
    folder.write("one.pem", both(&one));
    folder.write("other.crt", &other.cert);
    let key = folder.write("other.key", &other.key);
    let running = Running::tls(TlsConfig::folder(folder.path()), service()).await;
    let (to_one, to_other) = (Client::new(&ca, "localhost"), Client::new(&ca, "other.example"));
    folder.write("one.pem", both(&new_one));
    for bad in [new_other.key.as_str(), "", &other.key[..50]] {
        folder.write("other.key", bad);
        let error = running.handle.reload().await.unwrap_err();
        let path = error.downcast_ref::<TlsError>().unwrap().path().unwrap();
        assert_eq!(path, key, "{error}");
        assert!(shown(&to_one, running.addr).await == one.der, "nothing has changed");
        assert!(shown(&to_other, running.addr).await == other.der);
    }
    folder.write("other.crt", &new_other.cert);
    folder.write("other.key", &new_other.key);
    running.handle.reload().await.unwrap();
    assert!(shown(&to_one, running.addr).await == new_one.der);
    assert!(shown(&to_other, running.addr).await == new_other.der);
    // One that was removed is gone.
    fs::remove_file(folder.join("other.crt")).unwrap();
    running.handle.reload().await.unwrap();
    assert!(to_other.tcp(running.addr).await.is_err());
    running.end().await;
}

/// A slow disk, say: the first reload is still at its file when a second one has been and gone.
#[tokio::test]
async fn of_two_reloads_at_once_the_one_that_began_last_stays() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let first = ca.issue(["localhost"]);
    let (slow, last) = (ca.renew(&first), ca.renew(&first));
    let (cert, key) = (folder.write("cert.pem", &first.cert), folder.write("key.pem", &first.key));
    let tls = TlsConfig::files(&cert, &key);
    let running = Running::tls(tls.clone(), service()).await;
    let client = Client::new(&ca, "localhost");
    assert!(shown(&client, running.addr).await == first.der);
    fs::remove_file(&cert).unwrap();
    mknodat(CWD, &cert, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let reload = thread::spawn({
        let tls = tls.clone();
        move || tls.reload()
    });
    // Opens when somebody reads it.
    let mut pipe = fs::OpenOptions::new().write(true).open(&cert).unwrap();
    folder.write("cert.pem", &last.cert);
    tls.reload().unwrap();
    assert!(shown(&client, running.addr).await == last.der);
    pipe.write_all(slow.cert.as_bytes()).unwrap();
    drop(pipe);
    reload.join().unwrap().unwrap();
    assert!(shown(&client, running.addr).await == last.der);
    running.end().await;
}

#[test]
fn sighup_has_an_example_read_its_certificate_again() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let (old, new) = (ca.issue(["localhost"]), ca.issue(["localhost"]));
    let pem = folder.write("x.pem", both(&old));
    let example = Example::start_with("tls_echo", &["--cert", text(&pem), "--key", text(&pem)]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = Client::new(&ca, "localhost");
    let certificate = || runtime.block_on(shown(&client, example.tcp));
    assert!(certificate() == old.der);
    folder.write("x.pem", "");
    example.signal(Signal::HUP);
    folder.write("x.pem", both(&new));
    example.signal(Signal::HUP);
    support::until("the new certificate is shown", || certificate() == new.der);
}

/// An endpoint with a certificate of its own, added to a server that has none.
async fn added(folder: &Folder, issued: &Issued) -> (ropewalk::Handle, usize, String) {
    let pem = folder.write("added.pem", both(issued));
    let server =
        Server::new().listen("tcp:127.0.0.1:0").signals().serve(service()).bind().await.unwrap();
    let handle = server.handle();
    tokio::spawn(server);
    let Addr::Tcp(addr) = handle.addresses()[0] else { panic!("a TCP address") };
    let mut plain = TcpStream::connect(addr).await.unwrap();
    // Served, so it accepts by now.
    plain.write_all(b"x").await.unwrap();
    plain.read_exact(&mut [0]).await.unwrap();
    let endpoint = Endpoint::tcp(([127, 0, 0, 1], 0).into()).tls(TlsConfig::files(&pem, &pem));
    let number = handle.add_endpoint("main", endpoint).await.unwrap();
    (handle, number, "added.pem".to_owned())
}

#[tokio::test]
async fn the_files_of_an_endpoint_that_was_removed_are_not_read_again() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let (handle, number, file) = added(&folder, &ca.issue(["localhost"])).await;
    folder.write(&file, "");
    handle.reload().await.unwrap_err();
    handle.remove_endpoint(number).await.unwrap();
    handle.reload().await.unwrap();
    handle.stop();
}

#[tokio::test]
async fn sighup_reaches_an_endpoint_that_was_added_to_a_server_without_certificates() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let (old, new) = (ca.issue(["localhost"]), ca.issue(["localhost"]));
    let (handle, number, file) = added(&folder, &old).await;
    let Addr::Tcp(addr) = *handle.endpoints()[number].address() else { panic!("a TCP address") };
    let client = Client::new(&ca, "localhost");
    assert!(shown(&client, addr).await == old.der);
    folder.write(&file, both(&new));
    // Without a handler it would end this process.
    rustix::process::kill_process(rustix::process::getpid(), Signal::HUP).unwrap();
    let renewed = async { while shown(&client, addr).await != new.der {} };
    tokio::time::timeout(crate::encrypted::PATIENCE, renewed)
        .await
        .expect("the new certificate is shown");
    handle.stop();
}
