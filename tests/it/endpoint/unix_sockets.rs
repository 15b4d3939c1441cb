//! Unix sockets: which paths are replaced and which kept, permissions to connect, and the peer's credentials.

use std::fs;
use std::future::poll_fn;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ropewalk::endpoint::{BindError, Listener};
use ropewalk::{Addr, Endpoint};
use rustix::fs::{FlockOperation, flock};
use tokio::net::UnixStream;

/// A directory of the test's own, removed at its end.
struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.join("s")
    }

    fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }
}

async fn bind(path: &Path) -> Result<Box<dyn Listener>, BindError> {
    Endpoint::unix(path).bind().await
}

async fn refused(path: &Path) -> String {
    match bind(path).await {
        Ok(_) => panic!("{} was bound", path.display()),
        Err(error) => error.to_string(),
    }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

#[tokio::test]
async fn a_connection_has_its_peers_credentials() {
    let dir = Dir::new();
    let mut listener = bind(&dir.path()).await.unwrap();
    assert_eq!(listener.local_addr(), Addr::Unix(Some(dir.path().into())));
    let _client = UnixStream::connect(dir.path()).await.unwrap();
    let (_stream, peer) = poll_fn(|cx| listener.poll_accept(cx)).await;
    assert_eq!(peer.addr(), &Addr::Unix(None));
    let own = fs::metadata(dir.0.path()).unwrap();
    let credentials = peer.credentials().unwrap();
    assert_eq!((credentials.uid, credentials.gid), (own.uid(), own.gid()));
    if cfg!(target_os = "linux") {
        assert_eq!(credentials.pid, i32::try_from(std::process::id()).ok());
    }
}

#[tokio::test]
async fn the_address_of_a_listener_is_an_endpoint_string_whatever_the_path() {
    let dir = Dir::new();
    for name in ["a?b", "100%", "line\nend", "déjà vu", "%3F"] {
        let endpoint = Endpoint::unix(dir.join(name));
        let listener = endpoint.bind().await.unwrap();
        assert_eq!(listener.local_addr().to_string().parse(), Ok(endpoint));
    }
}

#[tokio::test]
async fn a_stale_socket_is_replaced() {
    let dir = Dir::new();
    drop(StdListener::bind(dir.path()).unwrap());
    assert!(is_there(&dir.path()), "its server left the path behind");
    let mut listener = bind(&dir.path()).await.unwrap();
    let _client = UnixStream::connect(dir.path()).await.unwrap();
    poll_fn(|cx| listener.poll_accept(cx)).await;
}

/// Servers in threads of their own, at the same moment, on the same path left behind: one has it,
/// and it is not taken from that one. Without the lock of the directory some round of these has two
/// winners, or none.
#[test]
fn one_server_gets_a_stale_path() {
    const SERVERS: usize = 4;
    let dir = Dir::new();
    for round in 0..100 {
        let path = dir.join(round.to_string());
        drop(StdListener::bind(&path).unwrap());
        let step = Barrier::new(SERVERS);
        let start = || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            step.wait();
            let listener = runtime.block_on(bind(&path));
            // All have tried before the first lets go of the path.
            step.wait();
            let _entered = runtime.enter();
            listener.map(drop).is_ok()
        };
        let winners = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..SERVERS).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| usize::from(thread.join().unwrap())).sum::<usize>()
        });
        assert_eq!(winners, 1, "round {round}");
    }
}

#[tokio::test]
async fn a_directory_locked_by_somebody_else_holds_up_the_start_for_a_moment_only() {
    let dir = Dir::new();
    let lock = fs::File::open(dir.0.path()).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    drop(StdListener::bind(dir.path()).unwrap());
    let listener = tokio::time::timeout(Duration::from_secs(30), bind(&dir.path())).await;
    drop(listener.unwrap().unwrap());
}

#[tokio::test]
async fn a_live_socket_is_kept_and_the_endpoint_refused() {
    let dir = Dir::new();
    let live = StdListener::bind(dir.path()).unwrap();
    let message = refused(&dir.path()).await;
    assert!(message.contains("a live server listens there"), "{message}");
    StdStream::connect(dir.path()).unwrap();
    live.accept().unwrap();
}

#[tokio::test]
async fn a_live_socket_whose_backlog_is_full_is_kept_and_does_not_hold_up_the_start() {
    let dir = Dir::new();
    let _live = Endpoint::unix(dir.path()).backlog(1).bind().await.unwrap();
    let mut waiting = Vec::new();
    loop {
        let socket =
            socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        match socket.connect(&socket2::SockAddr::unix(dir.path()).unwrap()) {
            Ok(()) => waiting.push(socket),
            Err(error) => break assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
    let message = refused(&dir.path()).await;
    assert!(message.contains("left alone"), "{message}");
    assert!(is_there(&dir.path()));
}

#[tokio::test]
async fn a_socket_of_another_type_is_kept() {
    let dir = Dir::new();
    let _live = UnixDatagram::bind(dir.path()).unwrap();
    let message = refused(&dir.path()).await;
    assert!(message.contains("left alone"), "{message}");
    assert!(is_there(&dir.path()));
}

#[tokio::test]
async fn a_regular_file_is_kept() {
    let dir = Dir::new();
    fs::write(dir.path(), "precious").unwrap();
    let message = refused(&dir.path()).await;
    assert!(message.contains("a file that is not a socket"), "{message}");
    assert_eq!(fs::read(dir.path()).unwrap(), b"precious");
}

#[tokio::test]
async fn a_directory_is_kept() {
    let dir = Dir::new();
    fs::create_dir(dir.path()).unwrap();
    let message = refused(&dir.path()).await;
    assert!(message.contains("a directory at the path"), "{message}");
    assert!(dir.path().is_dir());
}

#[tokio::test]
async fn a_symbolic_link_is_kept_even_if_it_leads_to_a_stale_socket_or_nowhere() {
    let dir = Dir::new();
    let target = dir.join("target");
    symlink(&target, dir.path()).unwrap();
    for stale in [false, true] {
        if stale {
            drop(StdListener::bind(&target).unwrap());
        }
        let message = refused(&dir.path()).await;
        assert!(message.contains("a symbolic link at the path"), "{message}");
        assert!(fs::symlink_metadata(dir.path()).unwrap().is_symlink());
        assert_eq!(is_there(&target), stale);
    }
}

#[tokio::test]
async fn a_missing_directory_is_an_error_that_says_so() {
    let dir = Dir::new();
    let message = refused(&dir.join("none/s")).await;
    assert!(message.contains("the directory of the path must exist"), "{message}");
}

#[tokio::test]
async fn a_path_of_107_bytes_is_bound_and_one_of_108_is_refused() {
    let dir = Dir::new();
    let left = 107 - dir.0.path().as_os_str().len() - 1;
    let longest = dir.join("x".repeat(left));
    let listener = bind(&longest).await.unwrap();
    assert!(is_there(&longest));
    drop(listener);
    let message = refused(&dir.join("x".repeat(left + 1))).await;
    assert!(message.contains("over 107 bytes"), "{message}");
}

#[tokio::test]
async fn the_mode_is_set_whether_the_umask_would_leave_more_or_less() {
    let dir = Dir::new();
    for wanted in [0o600, 0o660, 0o666, 0o777, 0o000] {
        let listener = Endpoint::unix(dir.path()).mode(wanted).bind().await.unwrap();
        assert_eq!(mode(&dir.path()), wanted, "{wanted:o}");
        drop(listener);
    }
}

#[tokio::test]
async fn without_a_mode_the_umask_decides() {
    let dir = Dir::new();
    let other = dir.join("other");
    let _plain = StdListener::bind(&other).unwrap();
    let _listener = bind(&dir.path()).await.unwrap();
    assert_eq!(mode(&dir.path()), mode(&other));
}

/// Looks at the path without a pause while another thread binds it again and again.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_mode_is_at_no_moment_wider_than_asked_for() {
    let dir = Dir::new();
    let path = dir.path();
    let done = AtomicBool::new(false);
    let (mut seen, mut looks) = (0, 0);
    std::thread::scope(|scope| {
        let handle = tokio::runtime::Handle::current();
        let (path, done) = (&path, &done);
        scope.spawn(move || {
            let endpoint = Endpoint::unix(path).mode(0o600);
            for _ in 0..2000 {
                drop(handle.block_on(endpoint.bind()).unwrap());
            }
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            if let Ok(metadata) = fs::symlink_metadata(path) {
                seen |= metadata.permissions().mode() & 0o777;
                looks += 1;
            }
        }
    });
    assert!(looks > 0, "the path was never seen");
    assert_eq!(seen, 0o600, "{seen:o}");
}

#[tokio::test]
async fn the_path_goes_with_its_listener() {
    let dir = Dir::new();
    let listener = bind(&dir.path()).await.unwrap();
    assert!(is_there(&dir.path()));
    drop(listener);
    assert!(!is_there(&dir.path()));
}

#[tokio::test]
async fn a_listener_leaves_alone_the_path_its_successor_has_bound() {
    let dir = Dir::new();
    let first = bind(&dir.path()).await.unwrap();
    fs::remove_file(dir.path()).unwrap();
    let mut second = bind(&dir.path()).await.unwrap();
    drop(first);
    let client =
        tokio::time::timeout(Duration::from_secs(5), UnixStream::connect(dir.path())).await;
    let _client = client.unwrap().unwrap();
    poll_fn(|cx| second.poll_accept(cx)).await;
}

#[tokio::test]
async fn a_listener_leaves_alone_a_file_put_at_its_path() {
    let dir = Dir::new();
    let listener = bind(&dir.path()).await.unwrap();
    fs::remove_file(dir.path()).unwrap();
    fs::write(dir.path(), "precious").unwrap();
    drop(listener);
    assert_eq!(fs::read(dir.path()).unwrap(), b"precious");
}
