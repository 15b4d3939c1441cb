//! Unix sockets: the owner of a path, and abstract names.

use std::fs;
use std::future::poll_fn;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixStream as StdStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use ropewalk::connection::Stream;
use ropewalk::{Addr, Endpoint};
use tokio::runtime::Builder;

use crate::support::{self, TempDir};

/// Debian's `nobody` and `nogroup`.
const NOBODY: u32 = 65534;

/// Giving a file away takes root; without it the test says so and passes.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        support::skipped("not root");
    }
    root
}

#[tokio::test]
async fn a_path_has_its_owner_by_name_or_by_number() {
    if !is_root() {
        return;
    }
    let dir = TempDir::new();
    let path = dir.join("s");
    let by_name = Endpoint::unix(&path).user("nobody").group("nogroup").mode(0o660);
    let by_number = Endpoint::unix(&path).user("65534").group("65534").mode(0o660);
    for endpoint in [by_name, by_number] {
        let listener = endpoint.bind().await.unwrap();
        let metadata = fs::symlink_metadata(&path).unwrap();
        assert_eq!(
            (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777),
            (NOBODY, NOBODY, 0o660),
            "{endpoint}"
        );
        drop(listener);
        assert!(!path.exists());
    }
}

#[test]
fn no_peer_connects_to_a_path_before_it_has_its_owner() {
    if !is_root() {
        return;
    }
    let dir = TempDir::new();
    // A path of its own for each try, or one could be taken for another. By its name, for the
    // look-up takes a moment.
    let path = |n: usize| dir.join(&n.to_string());
    let (current, last) = (AtomicUsize::new(0), 300);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            for n in 0..=last {
                let path = path(n);
                while current.load(Ordering::Relaxed) <= n {
                    if StdStream::connect(&path).is_err() {
                        continue;
                    }
                    // It may be gone again by now.
                    let owned = fs::symlink_metadata(&path)
                        .map_or(true, |metadata| metadata.gid() == NOBODY);
                    assert!(owned, "reached before it had its group");
                    // Once is enough. More would fill the backlog, from which nothing is accepted.
                    while current.load(Ordering::Relaxed) == n {
                        thread::yield_now();
                    }
                }
            }
        });
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        for n in 0..=last {
            current.store(n, Ordering::Relaxed);
            let listener = runtime
                .block_on(Endpoint::unix(path(n)).group("nogroup").mode(0o660).bind())
                .unwrap();
            StdStream::connect(path(n)).unwrap();
            drop(listener);
        }
        current.store(last + 1, Ordering::Relaxed);
        watcher.join().unwrap();
    });
}

#[tokio::test]
async fn an_unknown_owner_is_an_error_that_leaves_no_socket() {
    let dir = TempDir::new();
    let path = dir.join("s");
    for (endpoint, said) in [
        (Endpoint::unix(&path).user("no-such-user"), "no user \"no-such-user\""),
        (Endpoint::unix(&path).group("no-such-group"), "no group \"no-such-group\""),
    ] {
        let Err(error) = endpoint.bind().await else { panic!("{endpoint} was bound") };
        assert!(error.to_string().contains(said), "{error}");
        assert!(!path.exists());
    }
}

fn connect(name: &str) -> std::io::Result<StdStream> {
    StdStream::connect_addr(&SocketAddr::from_abstract_name(name)?)
}

#[tokio::test]
async fn an_abstract_name_is_reached_tells_its_peer_and_goes_with_its_listener() {
    let name = format!("ropewalk owner?{}", std::process::id());
    let endpoint = Endpoint::unix_abstract(&name);
    let mut listener = endpoint.bind().await.unwrap();
    assert_eq!(listener.local_addr(), Addr::Abstract(name.as_bytes().into()));
    assert_eq!(listener.local_addr().to_string().parse(), Ok(endpoint.clone()));
    let client = connect(&name).unwrap();
    let (stream, peer) = poll_fn(|cx| listener.poll_accept(cx)).await;
    assert_eq!(peer.credentials().unwrap().pid, i32::try_from(std::process::id()).ok());
    assert!(matches!(stream, Stream::Unix(_)));
    let Err(error) = endpoint.bind().await else { panic!("bound twice") };
    assert!(error.to_string().contains("another program listens there"), "{error}");
    drop((client, stream, listener));
    assert!(connect(&name).is_err());
    drop(endpoint.bind().await.unwrap());
}
