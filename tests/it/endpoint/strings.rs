//! Endpoints: their strings, their errors, and TCP listeners bound to them.
// The lint lets test functions unwrap, but not the helpers beside them.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use ropewalk::connection::Stream;
use ropewalk::endpoint::{BindError, EndpointError, Listener};
use ropewalk::layer::IpNet;
use ropewalk::{Addr, Endpoint};
use socket2::SockRef;
use tokio::net::TcpStream;

async fn bind(endpoint: &str) -> Result<Box<dyn Listener>, BindError> {
    endpoint.parse::<Endpoint>().unwrap().bind().await
}

fn nets(networks: &[&str]) -> Vec<IpNet> {
    networks.iter().map(|network| network.parse().unwrap()).collect()
}

fn tcp_addr(listener: &dyn Listener) -> SocketAddr {
    match listener.local_addr() {
        Addr::Tcp(addr) => addr,
        other => panic!("{other}"),
    }
}

#[test]
fn each_form_of_string_is_the_endpoint_built_in_code_and_displays_as_it_was_written() {
    let tcp = |addr: &str| Endpoint::tcp(addr.parse().unwrap());
    let table = [
        ("tcp:8007", tcp("0.0.0.0:8007")),
        ("tcp:127.0.0.1:0", tcp("127.0.0.1:0")),
        ("tcp:[::1]:8007?backlog=64", tcp("[::1]:8007").backlog(64)),
        ("tcp:[::]:8007", tcp("[::]:8007")),
        ("tcp:[fe80::1%2]:8007", tcp("[fe80::1%2]:8007")),
        ("tcp:[::]:8007?v6only=true", tcp("[::]:8007").v6_only(true)),
        ("tcp:[::1]:8007?backlog=64&v6only=false", tcp("[::1]:8007").backlog(64).v6_only(false)),
        ("unix:/run/x.sock", Endpoint::unix("/run/x.sock")),
        ("unix:/run/x.sock?mode=660", Endpoint::unix("/run/x.sock").mode(0o660)),
        ("unix:/run/x.sock?backlog=7&mode=0", Endpoint::unix("/run/x.sock").mode(0).backlog(7)),
        ("unix:relative/path", Endpoint::unix("relative/path")),
        ("unix:a:b=c&d", Endpoint::unix("a:b=c&d")),
        ("unix:why%3F", Endpoint::unix("why?")),
        ("unix:%2F/run/x", Endpoint::unix("//run/x")),
        ("unix:100%25", Endpoint::unix("100%")),
        ("unix:%253F", Endpoint::unix("%3F")),
        ("unix:line%0Aend", Endpoint::unix("line\nend")),
        ("unix:déjà vu", Endpoint::unix("déjà vu")),
        ("unix:x?mode=7&user=al&group=33", Endpoint::unix("x").mode(7).user("al").group("33")),
        ("unix:@name", Endpoint::unix_abstract("name")),
        ("unix:@@%00%3F?backlog=7", Endpoint::unix_abstract("@\0?").backlog(7)),
        ("unix:%40name", Endpoint::unix("@name")),
        ("systemd:web-1.socket", Endpoint::systemd("web-1.socket")),
        ("systemd:0", Endpoint::systemd("0")),
        ("fd:3", Endpoint::fd(3)),
        ("proxy+tcp:8007?trust=::1", tcp("0.0.0.0:8007").proxied(nets(&["::1/128"]))),
        (
            "proxy+tcp:[::]:8007?backlog=64&trust=10.0.0.0/8,192.0.2.1,2001:db8::/32",
            tcp("[::]:8007").backlog(64).proxied(nets(&[
                "10.9.9.9/8",
                "192.0.2.1/32",
                "2001:db8::/32",
            ])),
        ),
        ("proxy+tcp:8007?trust=0.0.0.0/0", tcp("0.0.0.0:8007").proxied(nets(&["0.0.0.0/0"]))),
        ("proxy+unix:/run/x.sock?mode=660", Endpoint::unix("/run/x.sock").mode(0o660).proxied([])),
        ("proxy+systemd:web", Endpoint::systemd("web").proxied([])),
        ("proxy+systemd:0?trust=::1", Endpoint::systemd("0").proxied(nets(&["::1/128"]))),
        ("proxy+fd:3?trust=10.0.0.0/8", Endpoint::fd(3).proxied(nets(&["10.0.0.0/8"]))),
    ];
    for (text, built) in table {
        assert_eq!(text.parse::<Endpoint>(), Ok(built.clone()), "{text}");
        assert_eq!(built.to_string(), text);
    }
    for text in [
        "tcp:localhost:8007",
        "tcp:[fe80::1%eth0.100]:8007",
        "proxy+tls:[fe80::1%br-lan]:8443?certs=/etc/certs&backlog=9&v6only=true&trust=::1",
        "tcp:a-b.example.org:0?backlog=1",
        "proxy+tcp:localhost:8007?trust=127.0.0.0/8",
        "proxy+tls:[::1]:8443?certs=/etc/certs&alpn=a,b&backlog=9&trust=::1",
    ] {
        assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
    }
}

#[test]
fn a_path_of_any_bytes_survives_the_round_trip() {
    use std::os::unix::ffi::OsStrExt;
    let all: Vec<u8> = (1..=255).collect();
    for bytes in all.chunks(100).chain(["?mode=777".as_bytes(), b"%41", b"//", b"///x", b"/"]) {
        let endpoint = Endpoint::unix(std::ffi::OsStr::from_bytes(bytes));
        assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
    }
}

#[test]
fn every_parsed_value_is_displayed_as_text_that_parses_again() {
    let mut state = 0x9E37_79B9_u32;
    let mut random = |below: usize| {
        // A xorshift generator: the strings are the same in every run.
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as usize % below
    };
    let mut parsed = 0;
    for _ in 0..20_000 {
        let length = random(14);
        let text: String =
            (0..length).map(|_| char::from(b"tcpunix:[]%?&=0179a/.\xe9-"[random(23)])).collect();
        for start in [
            "",
            "tcp:",
            "tcp:[",
            "unix:",
            "unix:/",
            "unix:@",
            "systemd:",
            "fd:",
            "tls:1?certs=",
            "tls+fd:3?certs=",
        ] {
            let Ok(endpoint) = format!("{start}{text}").parse::<Endpoint>() else { continue };
            assert_eq!(endpoint.to_string().parse(), Ok(endpoint), "{start}{text}");
            parsed += 1;
        }
    }
    assert!(parsed > 20_000, "{parsed}");
}

#[test]
fn a_flow_label_is_dropped_as_it_can_not_be_written() {
    let endpoint = Endpoint::tcp(SocketAddrV6::new(Ipv6Addr::LOCALHOST, 80, 5, 7).into());
    assert_eq!(endpoint.to_string(), "tcp:[::1%7]:80");
    assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
}

#[test]
fn a_function_can_take_strings_and_endpoints_and_clap_can_take_it_as_a_value() {
    fn listen<E>(endpoint: E) -> Result<Endpoint, EndpointError>
    where
        E: TryInto<Endpoint>,
        EndpointError: From<E::Error>,
    {
        Ok(endpoint.try_into()?)
    }
    fn value<
        T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>
            + Clone
            + Send
            + Sync
            + 'static,
    >() {
    }

    let text = String::from("tcp:8007");
    let endpoint = listen("tcp:8007").unwrap();
    assert_eq!(listen(&text).unwrap(), endpoint);
    assert_eq!(listen(text).unwrap(), endpoint);
    assert_eq!(listen(endpoint.clone()).unwrap(), endpoint);
    assert_eq!(listen(SocketAddr::from(([0, 0, 0, 0], 8007))).unwrap(), endpoint);
    assert!(listen("tcp").is_err());
    let _: fn(Infallible) -> EndpointError = EndpointError::from;
    value::<Endpoint>();
}

#[tokio::test]
async fn an_accepted_socket_has_no_delay_and_is_kept_alive() {
    for host in ["127.0.0.1", "[::1]", "localhost"] {
        let mut listener = bind(&format!("tcp:{host}:0")).await.unwrap();
        let client = TcpStream::connect(tcp_addr(&*listener)).await.unwrap();
        let (stream, peer) = poll_fn(|cx| listener.poll_accept(cx)).await;
        assert_eq!(peer.addr(), &Addr::Tcp(client.local_addr().unwrap()));
        let Stream::Tcp(stream) = stream else { panic!("{stream:?}") };
        assert!(stream.nodelay().unwrap());
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(10));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 6);
    }
}

#[tokio::test]
async fn port_0_becomes_the_port_the_system_chose() {
    let listener = bind("tcp:127.0.0.1:0").await.unwrap();
    assert_ne!(tcp_addr(&*listener).port(), 0);
}

#[tokio::test]
async fn a_server_can_start_again_while_connections_of_its_predecessor_linger() {
    let mut first = bind("tcp:127.0.0.1:0").await.unwrap();
    let addr = tcp_addr(&*first);
    let mut client = TcpStream::connect(addr).await.unwrap();
    let (stream, _) = poll_fn(|cx| first.poll_accept(cx)).await;
    // The server closes first, so its side stays in TIME_WAIT.
    drop(stream);
    assert_eq!(tokio::io::AsyncReadExt::read(&mut client, &mut [0]).await.unwrap(), 0);
    drop((client, first));
    bind(&format!("tcp:{addr}")).await.unwrap();
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_names_the_endpoint_and_what_to_do() {
    let first = bind("tcp:127.0.0.1:0").await.unwrap();
    let text = format!("tcp:{}", tcp_addr(&*first));
    let Err(error) = bind(&text).await else { panic!("bound twice") };
    assert_eq!(error.endpoint(), text);
    assert_eq!(error.cause().kind(), std::io::ErrorKind::AddrInUse);
    let message = error.to_string();
    assert!(message.starts_with(&format!("cannot bind {text}: ")), "{message}");
    assert!(message.contains("another program listens there"), "{message}");
}

#[tokio::test]
async fn an_address_of_another_machine_is_an_error_that_says_so() {
    let Err(error) = bind("tcp:192.0.2.1:0").await else { panic!("bound") };
    assert!(error.to_string().contains("this machine has no such address"), "{error}");
}

#[tokio::test]
async fn a_listener_made_in_code_is_bound_once_whichever_clone_comes_first() {
    let (endpoint, _connector) = ropewalk::memory::endpoint();
    assert_eq!(endpoint.to_string(), "memory:");
    let clone = endpoint.clone();
    assert_eq!(endpoint, clone);
    assert_ne!(endpoint, ropewalk::memory::endpoint().0);
    let bound = clone.bind().await.unwrap();
    let Err(error) = endpoint.bind().await else { panic!("bound twice") };
    assert!(error.to_string().contains("it was bound before"), "{error}");

    struct Foreign(Box<dyn Listener>);
    impl Listener for Foreign {
        fn poll_accept(
            &mut self,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<(Stream, ropewalk::Peer)> {
            self.0.poll_accept(cx)
        }
        fn local_addr(&self) -> Addr {
            Addr::Unix(None)
        }
    }
    assert_eq!(Endpoint::from_listener(Foreign(bound)).to_string(), "listener:unix:");
}

#[tokio::test]
async fn an_option_that_does_not_go_with_the_endpoint_is_an_error_when_binding() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let table = [
        (
            Endpoint::tcp(any).mode(0o600),
            "mode, user and group are for unix: endpoints with a path only",
        ),
        (
            Endpoint::unix_abstract("x").group("0"),
            "mode, user and group are for unix: endpoints with a path only",
        ),
        (Endpoint::fd(3).backlog(7), "backlog is for sockets that this process opens itself"),
        (Endpoint::unix_abstract(""), "the abstract name is empty"),
        (Endpoint::unix_abstract("x".repeat(108)), "over 107 bytes"),
        (Endpoint::systemd("a b"), "not part of a socket's name"),
        (Endpoint::tcp(any).proxied([]), "no proxy is trusted"),
        (Endpoint::unix("x").proxied(nets(&["::1/128"])), "trust is for endpoints with addresses"),
        (Endpoint::unix_abstract("x").proxied([]), "any process can connect to it"),
        (Endpoint::unix_abstract("x").proxied(nets(&["::1/128"])), "any process can connect to it"),
        (
            ropewalk::memory::endpoint().0.proxied(nets(&["::1/128"])),
            "trust is for endpoints with addresses",
        ),
        (
            ropewalk::memory::endpoint().0.backlog(1),
            "backlog is for sockets that this process opens itself",
        ),
        (Endpoint::unix("x").mode(0o1777), "a mode is at most 0o777"),
        (Endpoint::unix(""), "the path is empty"),
        (Endpoint::unix("x".repeat(108)), "over 107 bytes"),
        (Endpoint::unix("a\0b"), "NUL"),
    ];
    for (endpoint, problem) in table {
        let Err(error) = endpoint.bind().await else { panic!("{endpoint} was bound") };
        assert!(error.to_string().contains(problem), "{error}");
    }
}
