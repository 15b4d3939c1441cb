//! The port_forward example between clients and a server of the test's own.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use ropewalk::proxy::{Header, ParseStatus, Version, parse};
use socket2::{Domain, Socket, Type};

use crate::support::{self, Client, Dice, Example, PATIENCE, TempDir, program, skipped};

/// The other server, and the example that hands connections on to it.
fn start(args: &[&str]) -> (TcpListener, Example) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = server.local_addr().unwrap().to_string();
    let args = [&["--to", &to], args].concat();
    (server, Example::start_with("port_forward", &args))
}

/// A connection that was handed on, and what its header says.
fn accept(server: &TcpListener) -> (TcpStream, Header) {
    let (mut stream, _) = server.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = Vec::new();
    loop {
        match parse(&bytes).unwrap() {
            ParseStatus::Complete { header, .. } => return (stream, header),
            ParseStatus::Incomplete { need } => {
                let had = bytes.len();
                bytes.resize(had + need, 0);
                stream.read_exact(&mut bytes[had..]).unwrap();
            }
        }
    }
}

fn all(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_header_of_the_version_asked_for_tells_of_the_client() {
    for (args, version) in [(&[][..], Version::V2), (&["--proxy", "1"][..], Version::V1)] {
        let (server, example) = start(args);
        let client = TcpStream::connect(example.tcp).unwrap();
        let (_stream, header) = accept(&server);
        assert_eq!(header.version(), version);
        let from: SocketAddr = client.local_addr().unwrap();
        assert_eq!(header.source().unwrap().to_string(), format!("tcp:{from}"));
        assert_eq!(header.destination().unwrap().to_string(), format!("tcp:{}", example.tcp));
    }
    let (server, example) = start(&[]);
    let _client = example.unix();
    let (_stream, header) = accept(&server);
    assert_eq!(header.source().unwrap().to_string(), "unix:");
    assert_eq!(
        header.destination().unwrap().to_string(),
        format!("unix:{}", example.unix.display())
    );
}

#[test]
fn behind_another_proxy_it_passes_on_the_addresses_of_that_one() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = support::command("port_forward");
    command.args(["--to", &server.local_addr().unwrap().to_string()]);
    command.args(["--listen", "proxy+tcp:127.0.0.1:0?trust=127.0.0.0/8"]);
    let example = Example::spawn_behind(command, TempDir::new());
    let [client, front]: [SocketAddr; 2] =
        ["192.0.2.7:4711", "198.51.100.1:25"].map(|addr| addr.parse().unwrap());
    let mut proxy = TcpStream::connect(example.first).unwrap();
    proxy.write_all(&Header::new(client, front).to_v2()).unwrap();
    let (_stream, header) = accept(&server);
    assert_eq!(header.source().unwrap().to_string(), format!("tcp:{client}"));
    assert_eq!(header.destination().unwrap().to_string(), format!("tcp:{front}"));
    // One that tells nothing: then it is the sockets' addresses.
    let mut proxy = TcpStream::connect(example.first).unwrap();
    proxy.write_all(b"PROXY UNKNOWN\r\n").unwrap();
    let (_stream, header) = accept(&server);
    assert_eq!(header.destination().unwrap().to_string(), format!("tcp:{}", example.first));
}

#[test]
fn each_way_ends_for_itself_and_no_byte_is_lost() {
    let (server, example) = start(&[]);
    let bytes = Dice::new(5).bytes(1024 * 1024);
    for connect in [Example::tcp, Example::unix] {
        let mut client = connect(&example);
        let (mut stream, _) = accept(&server);
        let mut sender = client.sender();
        thread::scope(|scope| {
            scope.spawn(|| {
                sender.send(&bytes);
                sender.finish();
            });
            assert!(all(&mut stream) == bytes);
        });
        // That way has ended; the other has not.
        thread::scope(|scope| {
            scope.spawn(|| {
                stream.write_all(&bytes).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
            });
            assert!(client.rest() == bytes);
        });
    }
}

#[test]
fn the_server_may_end_first() {
    let (server, example) = start(&[]);
    let mut client = example.tcp();
    let (mut stream, _) = accept(&server);
    stream.write_all(b"bye").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.rest(), b"bye");
    client.send("late");
    client.finish();
    assert_eq!(all(&mut stream), b"late");
}

#[test]
fn an_error_on_one_side_ends_the_other() {
    let (server, example) = start(&[]);
    let mut client = TcpStream::connect(example.tcp).unwrap();
    let (stream, _) = accept(&server);
    client.write_all(b"half").unwrap();
    // Closed with unread input, which is a reset.
    let mut peeked = [0; 4];
    while stream.peek(&mut peeked).unwrap() < 4 {}
    drop(stream);
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(client.read(&mut peeked).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn without_a_server_the_client_is_closed_and_others_are_served_later() {
    // Bound and not listening yet, it has its port, and connections are refused.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let to = socket.local_addr().unwrap().as_socket().unwrap().to_string();
    let example = Example::start_with("port_forward", &["--to", &to]);
    assert!(example.tcp().ends());
    socket.listen(16).unwrap();
    let server = TcpListener::from(socket);
    let mut client = example.tcp();
    let (mut stream, _) = accept(&server);
    stream.write_all(b"x").unwrap();
    client.expect("x");
}

#[test]
fn a_connection_on_which_nothing_moves_is_broken_off() {
    let (server, example) = start(&["--idle", "1"]);
    let began = Instant::now();
    let mut client: Client = example.tcp();
    let (mut stream, _) = accept(&server);
    assert!(client.ends());
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(stream.read(&mut [0]).is_err());
}

#[test]
fn of_a_name_with_two_addresses_the_second_is_tried_when_the_first_does_not_answer() {
    // Names of the test's own take a mount namespace of its own, and that takes root.
    let Some(unshare) = program("unshare") else { return };
    if !Command::new(&unshare)
        .args(["-m", "true"])
        .output()
        .is_ok_and(|output| output.status.success())
    {
        return skipped("no mount namespace");
    }
    // A backlog that is full swallows what comes: that is a machine that is down.
    let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    full.bind(&SocketAddr::from(([127, 0, 0, 9], 0)).into()).unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap();
    let waiting = [(); 4].map(|()| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        drop(socket.connect(&address));
        socket
    });
    let port = address.as_socket().unwrap().port();
    let server = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 10), port)).unwrap();
    let dir = TempDir::new();
    let hosts = dir.join("hosts");
    fs::write(&hosts, "127.0.0.9 two.test\n127.0.0.10 two.test\n").unwrap();
    let mut command = Command::new(unshare);
    let run = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
    command
        .args(["-m", "sh", "-c", run])
        .arg(hosts)
        .arg(support::command("port_forward").get_program());
    command.args(["--to", &format!("two.test:{port}")]);
    let example = Example::spawn(command, dir);
    let _client = example.tcp();
    drop(accept(&server));
    drop(waiting);
}
