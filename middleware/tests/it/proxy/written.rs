//! Headers to send.

use std::net::SocketAddr;
use std::path::Path;

use ropewalk_middleware::Addr;
use ropewalk_middleware::proxy::{Header, HeaderError, MAX_HEADER, Tlv, Transport};

use super::{destination, good, source};

fn tcp(addr: &str) -> SocketAddr {
    addr.parse().unwrap()
}

fn unix(path: &str) -> Addr {
    Addr::Unix(Some(Path::new(path).into()))
}

fn named(name: &str) -> Addr {
    Addr::Abstract(name.as_bytes().into())
}

#[track_caller]
fn comes_back(header: &Header) {
    let back = good(&header.to_v2());
    assert_eq!((back.source(), back.destination()), (header.source(), header.destination()));
    assert_eq!((back.is_local(), back.transport()), (header.is_local(), header.transport()));
    assert_eq!(
        back.tlvs().map(|tlv| tlv.kind).collect::<Vec<_>>(),
        header.tlvs().map(|tlv| tlv.kind).collect::<Vec<_>>()
    );
    let line = good(&header.to_v1());
    match (header.source(), header.transport()) {
        (Some(Addr::Tcp(_)), Transport::Stream) => {
            assert_eq!((line.source(), line.destination()), (back.source(), back.destination()));
        }
        _ => assert_eq!(line.source(), None),
    }
}

#[test]
fn a_written_header_is_read_again() {
    let longest = format!("/{}", "x".repeat(107));
    for header in [
        Header::new(tcp("1.2.3.4:5"), tcp("6.7.8.9:10")),
        Header::new(tcp("[2001:db8::1]:65535"), tcp("[::]:0")),
        Header::new(tcp("1.2.3.4:5"), tcp("[::1]:7")),
        Header::new(unix("/run/a.sock"), Addr::Unix(None)),
        Header::new(Addr::Unix(None), unix(&longest)),
        Header::new(named("name"), unix("/run/a.sock")),
        Header::new(Addr::Unix(None), named(&longest[1..])),
        Header::new(named("\0\0x"), named("@")),
        Header::new(Addr::Memory, tcp("1.2.3.4:5")),
        Header::local(),
    ] {
        comes_back(&header);
        comes_back(&header.clone().with_checksum());
        comes_back(
            &header
                .with_tlv(Tlv::UNIQUE_ID, b"7")
                .unwrap()
                .with_checksum()
                .with_tlv(0xe0, &[0; 300])
                .unwrap(),
        );
    }
}

#[test]
fn a_header_is_written_as_the_specification_has_it() {
    let header = Header::new(tcp("127.0.0.1:8080"), tcp("127.0.0.1:8888"));
    assert_eq!(header.to_v1(), b"PROXY TCP4 127.0.0.1 127.0.0.1 8080 8888\r\n");
    assert_eq!(
        header.to_v2(),
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01\x1f\x90\x22\xb8"
    );
    assert_eq!(Header::local().to_v1(), b"PROXY UNKNOWN\r\n");
    assert_eq!(Header::local().to_v2(), b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
    assert_eq!(Header::new(Addr::Memory, Addr::Memory).to_v2(), b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0");
}

#[test]
fn addresses_of_two_families_are_both_written_as_ipv6() {
    let header = Header::new(tcp("192.0.2.7:1"), tcp("[2001:db8::1]:2"));
    assert_eq!(header.to_v1(), b"PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 1 2\r\n");
    assert_eq!(source(&good(&header.to_v2())).as_deref(), Some("tcp:[::ffff:192.0.2.7]:1"));
}

#[test]
fn an_ipv4_address_mapped_into_ipv6_is_written_as_ipv4() {
    let header = Header::new(tcp("[::ffff:192.0.2.7]:1"), tcp("[::ffff:127.0.0.1]:2"));
    assert_eq!(header.to_v1(), b"PROXY TCP4 192.0.2.7 127.0.0.1 1 2\r\n");
    assert_eq!(source(&good(&header.to_v2())).as_deref(), Some("tcp:192.0.2.7:1"));
}

#[test]
fn a_scope_is_left_out_as_it_means_nothing_elsewhere() {
    let header = Header::new(tcp("[fe80::1%7]:1"), tcp("[fe80::2%7]:2"));
    assert_eq!(
        (source(&header).as_deref(), destination(&header).as_deref()),
        (Some("tcp:[fe80::1]:1"), Some("tcp:[fe80::2]:2"))
    );
    comes_back(&header);
}

#[test]
fn a_path_or_name_that_can_not_be_written_is_not_told() {
    let long = format!("/{}", "x".repeat(108));
    for addr in [unix(&long), named(&long[..108]), named(""), named("x\0")] {
        assert_eq!(Header::new(addr, Addr::Unix(None)).source(), None);
    }
}

#[test]
fn a_header_grows_to_its_limit_and_has_one_checksum() {
    let header = || Header::new(tcp("1.2.3.4:5"), tcp("6.7.8.9:10"));
    for large in [MAX_HEADER, 70_000] {
        assert!(matches!(
            header().with_tlv(0xe0, &vec![0; large]),
            Err(HeaderError::TooLarge { .. })
        ));
    }
    assert_eq!(header().with_tlv(Tlv::CRC32C, b"123"), Err(HeaderError::BadChecksum));
    assert_eq!(
        header().with_checksum().with_tlv(Tlv::CRC32C, &[0; 4]),
        Err(HeaderError::BadChecksum)
    );
    assert_eq!(header().with_checksum().with_checksum(), header().with_checksum());
}

#[test]
fn a_header_that_is_sent_on_has_a_checksum_of_its_own() {
    let header = good(&Header::new(tcp("1.2.3.4:5"), tcp("6.7.8.9:10")).with_checksum().to_v2());
    good(&header.with_tlv(Tlv::UNIQUE_ID, b"7").unwrap().to_v2());
}
