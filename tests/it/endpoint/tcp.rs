//! TCP endpoints as sockets: IPv6 beside IPv4, addresses of an interface, options the system does
//! not have.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdTcpListener};
use std::process::Command;

use ropewalk::{Connection, Endpoint, Error, PeerLimitLayer, Result, Server};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tower::service_fn;

use crate::harness::{self, Running, ask, shouter};
use crate::support::{self, TempDir};

fn localhost(port: u16) -> [SocketAddr; 2] {
    [(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]
}

/// A port that is free on all addresses of both families.
fn free_port() -> u16 {
    StdTcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port()
}

/// Whether `[::]` takes IPv4 on this system.
fn is_dual() -> bool {
    fs::read_to_string("/proc/sys/net/ipv6/bindv6only").is_ok_and(|text| text.trim() == "0")
}

fn listening(endpoints: &[String]) -> Server {
    endpoints.iter().fold(Server::new(), Server::listen)
}

async fn refused(endpoints: &[String]) -> String {
    let server = listening(endpoints).serve(shouter()).bind().await;
    server.map(drop).unwrap_err().to_string()
}

#[tokio::test]
async fn both_wildcards_share_a_port_in_either_order_and_with_workers() {
    for (first, second, workers) in
        [("0.0.0.0", "[::]", 0), ("[::]", "0.0.0.0", 0), ("[::]", "0.0.0.0", 2)]
    {
        let port = free_port();
        let server = listening(&[format!("tcp:{first}:{port}"), format!("tcp:{second}:{port}")]);
        let server = if workers == 0 { server } else { server.workers(workers) };
        let server = Running::start(server.serve(shouter())).await;
        for addr in localhost(port) {
            ask(&mut TcpStream::connect(addr).await.unwrap(), "a\n", "A\n").await;
        }
        server.end().await;
    }
}

#[tokio::test]
async fn the_ipv6_wildcard_alone_takes_ipv4_unless_it_is_told_otherwise() {
    if !is_dual() {
        return;
    }
    for (option, takes) in [("", true), ("?v6only=false", true), ("?v6only=true", false)] {
        let server =
            Running::start(listening(&[format!("tcp:[::]:0{option}")]).serve(shouter())).await;
        let [v4, v6] = localhost(server.tcp_addr(0).port());
        ask(&mut TcpStream::connect(v6).await.unwrap(), "a\n", "A\n").await;
        assert_eq!(TcpStream::connect(v4).await.is_ok(), takes, "{option}");
        server.end().await;
    }
    // With ports of their own neither is in the other's way.
    let both = ["tcp:0.0.0.0:0".to_owned(), "tcp:[::]:0".to_owned()];
    let server = Running::start(listening(&both).serve(shouter())).await;
    drop(TcpStream::connect(localhost(server.tcp_addr(1).port())[0]).await.unwrap());
    server.end().await;
}

#[tokio::test]
async fn endpoints_of_one_server_that_are_in_each_others_way_are_both_named() {
    if !is_dual() {
        return;
    }
    let port = free_port();
    let tcp = |rest: &str| format!("tcp:{}", rest.replace("PORT", &port.to_string()));
    let way_out = format!("write tcp:[::]:{port}?v6only=true");
    for (first, second, said) in [
        ("[::]:PORT", "127.0.0.1:PORT", &*way_out),
        ("127.0.0.1:PORT", "[::]:PORT", &way_out),
        ("PORT", "[::]:PORT?v6only=false", &way_out),
        ("PORT", "127.0.0.1:PORT", "has that port"),
        ("127.0.0.1:PORT", "127.0.0.1:PORT", "has that port"),
        ("[::1]:PORT", "[::]:PORT", "has that port"),
    ] {
        let error = refused(&[tcp(first), tcp(second)]).await;
        assert!(
            error.contains(&format!("{}, where this server listens as well", tcp(first))),
            "{error}"
        );
        assert!(error.contains(said) && !error.contains("another program"), "{error}");
    }
    // That of another program is another matter.
    let _other = StdTcpListener::bind(("127.0.0.1", port)).unwrap();
    let error = refused(&["tcp:127.0.0.2:0".to_owned(), tcp("127.0.0.1:PORT")]).await;
    assert!(error.contains("another program"), "{error}");
}

#[tokio::test]
async fn an_ipv4_peer_of_a_socket_of_both_families_is_an_ipv4_peer_everywhere() {
    if !is_dual() {
        return;
    }
    let tell = service_fn(async |mut connection: Connection| {
        let (peer, here) = (connection.peer().clone(), connection.local());
        let text = format!("{peer} {here} {:?}\n", peer.ip().map(|ip| ip.is_ipv4()));
        connection.write_all(text.as_bytes()).await?;
        connection.close().await;
        Result::<(), Error>::Ok(())
    });
    let limit = PeerLimitLayer::new(1);
    for drains in [false, true] {
        let server = Server::new()
            .layer(limit.clone())
            .listen("tcp:[::]:0")
            .serve(tell)
            .bind()
            .await
            .unwrap();
        let handle = server.handle();
        let ropewalk::Addr::Tcp(addr) = handle.addresses()[0] else { panic!("TCP") };
        let mut client = TcpStream::connect(localhost(addr.port())[0]).await.unwrap();
        let expected = format!(
            "tcp:{} tcp:127.0.0.1:{} Some(true)\n",
            client.local_addr().unwrap(),
            addr.port()
        );
        if drains {
            // Taken from the backlog at the last call.
            handle.drain(harness::LONG);
        }
        let server = tokio::spawn(server);
        assert_eq!(harness::rest(&mut client).await, expected);
        drop(client);
        handle.drain(harness::LONG);
        server.await.unwrap().unwrap();
    }
}

/// An address that is good on one interface only, and that interface.
fn link_local() -> Option<(Ipv6Addr, String)> {
    let table = fs::read_to_string("/proc/net/if_inet6").ok()?;
    let row = table
        .lines()
        .map(|row| row.split_whitespace().collect::<Vec<_>>())
        .find(|row| row[0].starts_with("fe80"))?;
    Some((Ipv6Addr::from_bits(u128::from_str_radix(row[0], 16).ok()?), row[5].to_owned()))
}

#[tokio::test]
async fn a_link_local_address_is_bound_on_the_interface_that_is_named() {
    if let Some((ip, interface)) = link_local() {
        let server =
            Running::start(listening(&[format!("tcp:[{ip}%{interface}]:0")]).serve(shouter()))
                .await;
        ask(&mut server.connect().await, "a\n", "A\n").await;
        server.end().await;
    }
    // The interface is found, and does not have the address.
    let error = refused(&["tcp:[fe80::1%lo]:0".to_owned()]).await;
    assert!(
        error.contains("cannot bind tcp:[fe80::1%lo]:0") && error.contains("no such address"),
        "{error}"
    );
    let error = refused(&["tcp:[fe80::1%nowhere0]:0".to_owned()]).await;
    assert!(error.contains("this machine has no interface nowhere0"), "{error}");
}

#[tokio::test]
async fn options_of_ipv6_are_refused_elsewhere() {
    for endpoint in [
        Endpoint::tcp(localhost(0)[0]),
        Endpoint::unix("/tmp/x"),
        "tcp:localhost:0".parse().unwrap(),
    ] {
        let error = endpoint.v6_only(true).bind().await.map(drop).unwrap_err().to_string();
        assert!(error.contains("v6only is for tcp: endpoints with an IPv6 address"), "{error}");
    }
}

/// The example with so many calls of `setsockopt` refused, and what it says if it does not start.
fn without_options(which: &str) -> Command {
    let mut command = Command::new("strace");
    command.args(["-qq", "-f", "-o", "/dev/null", "-e", "trace=setsockopt"]);
    command.args(["-e", &format!("inject=setsockopt:error=ENOPROTOOPT:when={which}")]);
    command.arg(support::command("echo").get_program());
    // Without the warning about an option that is left out, which would come before the lines that
    // are read.
    command.args(["--log-level", "error"]);
    command
}

#[test]
fn a_socket_option_the_system_does_not_have_is_named_or_left_out() {
    if support::program("strace").is_none() {
        return;
    }
    for (which, option) in [("1", "SO_REUSEADDR"), ("2", "SO_KEEPALIVE")] {
        let mut command = without_options(which);
        command.args(["--listen", "tcp:127.0.0.1:0"]);
        let (status, words) = support::run(command);
        let said = format!(
            "cannot bind tcp:127.0.0.1:0: the system refuses the socket option {option}: Protocol not"
        );
        assert!(!status.success() && words.contains(&said), "{words}");
    }
    let mut command = without_options("2");
    command.args(["--listen", "tcp:[::1]:0?v6only=true"]);
    assert!(support::run(command).1.contains("IPV6_V6ONLY"));
    // All that it works without: when the socket is opened (calls 3 to 7, as each is refused), and
    // when it is watched.
    for which in ["3..7", "12+"] {
        let mut example = support::Example::spawn(without_options(which), TempDir::new());
        for mut client in example.both() {
            client.ask("a\n", "a\n");
        }
        // Not strace, which would leave it behind.
        let strace = example.pid().as_raw_nonzero();
        let traced = fs::read_to_string(format!("/proc/{strace}/task/{strace}/children")).unwrap();
        kill_process(Pid::from_raw(traced.trim().parse().unwrap()).unwrap(), Signal::TERM).unwrap();
        assert!(example.wait().success());
    }
}
