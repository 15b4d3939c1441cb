//! The example `hardened` under attack.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::support::{Client, Example, until};

/// The connections that each kind of attacker tries to hold.
const EACH: usize = 84;

#[derive(Clone, Copy, Debug)]
enum Kind {
    Silent,
    Drip,
    NeverReads,
    Flood,
    Garbage,
    Reconnects,
}

const KINDS: [Kind; 6] =
    [Kind::Silent, Kind::Drip, Kind::NeverReads, Kind::Flood, Kind::Garbage, Kind::Reconnects];

impl Kind {
    /// Attacks once with a connection; false if it is to be replaced.
    fn attack(self, peer: &mut TcpStream, round: usize) -> bool {
        let sent = match self {
            Self::Silent => peer.read(&mut [0]).map(|n| usize::from(n > 0)),
            Self::Drip => peer.write(&[b'x', b'y'][round % 2..][..1]),
            Self::NeverReads => peer.write(&b"0123456789abcdef0123456789abcde\n".repeat(64)),
            Self::Flood => {
                drop(peer.read(&mut [0; 4096]));
                peer.write(&[b'\n'; 4096])
            }
            Self::Garbage => peer.write(&[0xFF; 8192]),
            Self::Reconnects => return false,
        };
        match sent {
            Ok(n) => n > 0,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }
}

fn connect(host: u8, to: SocketAddr) -> Option<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).ok()?;
    socket.bind(&SocketAddr::from(([127, 0, 0, host], 0)).into()).ok()?;
    socket.connect_timeout(&to.into(), Duration::from_secs(1)).ok()?;
    socket.set_nonblocking(true).ok()?;
    Some(socket.into())
}

/// Attacks from an address of its own until told to stop.
fn attack(kind: Kind, host: u8, to: SocketAddr, stop: &AtomicBool, opened: &AtomicUsize) {
    let mut peers: Vec<Option<TcpStream>> = (0..EACH).map(|_| None).collect();
    for round in 0.. {
        for slot in &mut peers {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            if slot.as_mut().is_none_or(|peer| !kind.attack(peer, round)) {
                *slot = connect(host, to);
                opened.fetch_add(slot.is_some().into(), Ordering::Relaxed);
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn every_good_client_is_served_while_five_hundred_attack() {
    // Fewer slots than attackers, so that they would fill the server.
    let mut example = Example::start_with("hardened", &["--connections", "100"]);
    let (to, stop, opened) = (example.tcp, AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for (kind, host) in KINDS.into_iter().zip(2..) {
            let (stop, opened) = (&stop, &opened);
            scope.spawn(move || attack(kind, host, to, stop, opened));
        }
        until("500 have connected", || opened.load(Ordering::Relaxed) >= 500);
        let served = std::panic::catch_unwind(|| {
            for host in 1..=30 {
                let mut good = Client::tcp_from([127, 0, 1, host], to);
                for line in ["hello\r\n", "again\r\n", "and again\r\n"] {
                    good.send(line);
                    assert_eq!(good.line().trim_end(), line.trim_end(), "client {host}");
                }
            }
        });
        stop.store(true, Ordering::Relaxed);
        assert!(served.is_ok(), "{} attackers had connected", opened.load(Ordering::Relaxed));
    });
    example.terminate();
    assert!(example.wait().success());
}

#[test]
fn networks_that_are_denied_are_not_served() {
    let dir = crate::support::TempDir::new();
    let file = dir.join("rules");
    std::fs::write(&file, "deny 127.0.0.9/32\nallow all\n").unwrap();
    let example = Example::start_with("hardened", &["--access".as_ref(), file.as_os_str()]);
    assert!(Client::tcp_from([127, 0, 0, 9], example.tcp).ends());
    let mut allowed = Client::tcp_from([127, 0, 0, 8], example.tcp);
    allowed.ask("x\n", "x\n");
}
