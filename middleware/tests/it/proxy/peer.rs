//! A peer behind a proxy.

use std::net::SocketAddr;

use ropewalk_middleware::proxy::Header;
use ropewalk_middleware::{Addr, Peer};

use super::good;

fn tcp(addr: &str) -> Addr {
    Addr::Tcp(addr.parse::<SocketAddr>().unwrap())
}

#[test]
fn a_peer_has_the_clients_address_and_knows_the_proxys() {
    let header = good(b"PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 56324 25\r\n");
    let peer = Peer::via(Peer::new(tcp("10.0.0.1:40000")), header.clone());
    assert_eq!(peer.addr(), &tcp("192.0.2.7:56324"), "as what it is");
    assert_eq!(peer.ip().map(|ip| ip.to_string()).as_deref(), Some("192.0.2.7"));
    assert_eq!(peer.to_string(), "tcp:192.0.2.7:56324");
    let told = peer.proxied().unwrap();
    assert_eq!(told.proxy(), &Peer::new(tcp("10.0.0.1:40000")));
    assert_eq!(told.header(), &header);
    assert_eq!(told.destination(), Some(&tcp("[2001:db8::1]:25")));
    assert_eq!(told.proxy().proxied(), None);
}

#[test]
fn without_an_address_in_the_header_the_proxy_is_the_peer() {
    for header in [
        Header::local(),
        good(b"PROXY UNKNOWN\r\n"),
        good(&super::v2::header(0x21, 0x12, &[&[1; 12]])),
    ] {
        let peer = Peer::via(Peer::new(tcp("10.0.0.1:40000")), header);
        assert_eq!(peer.addr(), &tcp("10.0.0.1:40000"));
        assert_eq!(peer.proxied().unwrap().proxy().addr(), peer.addr());
    }
}
