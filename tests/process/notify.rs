//! `STOPPING=1`: told while the sockets still listen. Alone in its process, whose environment names
//! the manager's socket.

use std::env;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use ropewalk::connection::Stream;
use ropewalk::endpoint::Listener;
use ropewalk::{Addr, Bytes, Endpoint, Peer, RawBytes, Server, framed, reply_fn};

use crate::support::{self, TempDir};

const VARIABLE: &str = "NOTIFY_SOCKET";

/// A listener nobody connects to. It notes what the manager has heard when it is told of the last
/// call, and when it is closed.
struct Witness {
    manager: UnixDatagram,
    noted: Arc<Mutex<Vec<String>>>,
}

impl Witness {
    fn note(&self, when: &str) {
        let mut buf = [0; 64];
        let mut noted = self.noted.lock().unwrap();
        noted.push(when.to_owned());
        while let Ok(n) = self.manager.recv(&mut buf) {
            noted.push(String::from_utf8_lossy(&buf[..n]).trim().to_owned());
        }
    }
}

impl Listener for Witness {
    fn poll_accept(&mut self, _: &mut Context<'_>) -> Poll<(Stream, Peer)> {
        Poll::Pending
    }

    fn last_call(&mut self) {
        self.note("last call");
    }

    fn local_addr(&self) -> Addr {
        Addr::Memory
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.note("closed");
    }
}

#[test]
fn stopping_is_told_before_the_listeners_close() {
    const NAME: &str = "stopping_is_told_before_the_listeners_close";
    let Some(path) =
        env::var_os(VARIABLE).filter(|_| env::var_os("ROPEWALK_NOTIFY_TEST").is_some())
    else {
        // The environment of a process that has threads is not to be changed: so this runs itself
        // in another one.
        let dir = TempDir::new();
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args(["--exact", &support::test(module_path!(), NAME), "--nocapture"])
            .env(VARIABLE, dir.join("notify"))
            .env("ROPEWALK_NOTIFY_TEST", "1");
        let (status, words) = support::run(command);
        assert!(status.success(), "{words}");
        return;
    };
    let manager = UnixDatagram::bind(path).unwrap();
    manager.set_nonblocking(true).unwrap();
    let noted = Arc::new(Mutex::new(Vec::new()));
    let witness = Witness { manager, noted: Arc::clone(&noted) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let server = Server::new().listen(Endpoint::from_listener(witness)).sd_notify();
        let server = server.serve(framed(RawBytes, reply_fn(|bytes: Bytes| bytes)));
        let handle = server.handle();
        let server = tokio::spawn(server);
        handle.drain(support::PATIENCE);
        server.await.unwrap().unwrap();
    });
    assert_eq!(*noted.lock().unwrap(), ["last call", "READY=1", "STOPPING=1", "closed"]);
}
