//! Version 2: binary.

use ropewalk_middleware::Addr;
use ropewalk_middleware::proxy::{Header, HeaderError, MAX_HEADER, Tlv, Transport, Version};

use super::{bad, destination, good, parsed, source};

pub(crate) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V4: &[u8] = b"\x7f\0\0\x01\x7f\0\0\x01\x1f\x90\x22\xb8";

/// A header with the right length.
pub(crate) fn header(command: u8, family: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let len = u16::try_from(body.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &len, &body].concat()
}

fn v6() -> Vec<u8> {
    let ip = 1u128.to_be_bytes();
    [&ip[..], &ip, b"\x1f\x90\x22\xb8"].concat()
}

fn unix() -> Vec<u8> {
    let mut path = b"/home/tests/mysockets/sock".to_vec();
    path.resize(108, 0);
    [&path[..], &path].concat()
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind][..], &u16::try_from(value.len()).unwrap().to_be_bytes(), value].concat()
}

/// The three families: their numbers and blocks, and how their source is written.
fn families() -> [(u8, Vec<u8>, &'static str, &'static str); 3] {
    [
        (0x10, V4.to_vec(), "tcp:127.0.0.1:8080", "tcp:127.0.0.1:8888"),
        (0x20, v6(), "tcp:[::1]:8080", "tcp:[::1]:8888"),
        (0x30, unix(), "unix:/home/tests/mysockets/sock", "unix:/home/tests/mysockets/sock"),
    ]
}

#[track_caller]
fn tells_nothing(header: &Header) {
    assert_eq!((header.source(), header.destination(), header.client()), (None, None, None));
    assert_eq!(header.transport(), Transport::Unspecified);
}

#[test]
fn each_family_tells_both_addresses() {
    for (family, block, from, to) in families() {
        let header = good(&header(0x21, family | 1, &[&block]));
        assert_eq!((header.version(), header.transport()), (Version::V2, Transport::Stream));
        assert_eq!(
            (source(&header).as_deref(), destination(&header).as_deref()),
            (Some(from), Some(to))
        );
        assert_eq!(header.client(), header.source());
        assert!(!header.is_local() && header.tlvs().next().is_none());
    }
}

#[test]
fn a_datagrams_addresses_are_told_but_its_sender_is_no_client_of_a_stream() {
    for (family, block, from, to) in families() {
        let header = good(&header(0x21, family | 2, &[&block]));
        assert_eq!(header.transport(), Transport::Datagram);
        assert_eq!(
            (source(&header).as_deref(), destination(&header).as_deref()),
            (Some(from), Some(to))
        );
        assert_eq!(header.client(), None);
    }
}

#[test]
fn a_unix_path_may_fill_its_field_and_an_unnamed_client_has_no_path() {
    let header = good(&header(0x21, 0x31, &[&[b'x'; 108], &[0; 108]]));
    assert_eq!(source(&header), Some(format!("unix:{}", "x".repeat(108))));
    assert_eq!(header.destination(), Some(&Addr::Unix(None)));
    // One in the abstract namespace has a name.
    let header = good(&self::header(0x21, 0x31, &[b"\0abs\0ract", &[0; 99], b"/a\0/b", &[0; 103]]));
    assert_eq!(
        (source(&header).as_deref(), destination(&header).as_deref()),
        (Some("unix:@abs%00ract"), Some("unix:/a"))
    );
}

#[test]
fn a_local_connection_keeps_its_addresses_whatever_family_it_names() {
    for (family, block, ..) in families() {
        for transport in 0..=2 {
            let header = good(&header(0x20, family | transport, &[&block]));
            assert!(header.is_local());
            tells_nothing(&header);
        }
    }
    for family in [0x00, 0x01, 0x11, 0x21, 0x31, 0x40, 0xff] {
        for body in [&b""[..], b"x", b"any bytes at all"] {
            let header = good(&header(0x20, family, &[body]));
            assert!(header.is_local());
            tells_nothing(&header);
        }
    }
}

#[test]
fn an_unspecified_family_or_transport_tells_nothing() {
    for family in [0x00, 0x01, 0x02, 0x10, 0x20, 0x30] {
        for body in [V4, b"", b"\x01"] {
            let header = good(&header(0x21, family, &[body]));
            assert!(!header.is_local());
            tells_nothing(&header);
        }
    }
}

#[test]
fn values_are_told_also_where_the_addresses_are_not() {
    let name = tlv(Tlv::AUTHORITY, b"a.example");
    for (command, family, block) in [
        (0x21, 0x11, V4),
        (0x21, 0x12, V4),
        (0x21, 0x10, V4),
        (0x21, 0x00, b""),
        (0x20, 0x00, b""),
        (0x20, 0x11, V4),
    ] {
        let header =
            good(&header(command, family, &[block, &name, &tlv(0xe0, b""), &tlv(0xe0, b"2")]));
        assert_eq!(header.tlv(Tlv::AUTHORITY), Some(&b"a.example"[..]), "{command:x} {family:x}");
        let kinds: Vec<_> = header.tlvs().map(|tlv| (tlv.kind, tlv.value)).collect();
        assert_eq!(kinds, [(2, &b"a.example"[..]), (0xe0, b""), (0xe0, b"2")]);
        assert_eq!((header.tlv(0xe0), header.tlv(0x30)), (Some(&b""[..]), None));
    }
}

#[test]
fn the_tls_fields_of_a_header_are_read_with_their_own_values() {
    let details = [tlv(Tlv::SSL_VERSION, b"TLSv1.3"), tlv(Tlv::SSL_CN, b"client")].concat();
    let ssl = |client: u8, verify: u32, rest: &[u8]| {
        let value = [&[client][..], &verify.to_be_bytes(), rest].concat();
        good(&header(0x21, 0x11, &[V4, &tlv(Tlv::SSL, &value)]))
    };
    let header = ssl(7, 0, &details);
    let told = header.ssl().unwrap();
    assert!(told.is_tls() && told.has_certificate() && told.is_verified());
    assert_eq!(told.tlv(Tlv::SSL_VERSION), Some(&b"TLSv1.3"[..]));
    assert_eq!(told.tlvs().count(), 2);
    // Without a certificate there is nothing to verify, whatever the field says.
    let header = ssl(1, 0, &[]);
    assert!(
        header
            .ssl()
            .is_some_and(|ssl| ssl.is_tls() && !ssl.has_certificate() && !ssl.is_verified())
    );
    let header = ssl(3, 1, &[]);
    assert!(header.ssl().is_some_and(|ssl| ssl.has_certificate() && !ssl.is_verified()));
    assert!(ssl(1, 1, b"\x21\0\x09x").ssl().is_none());
    assert!(good(&self::header(0x21, 0x11, &[V4, &tlv(Tlv::SSL, &[1, 0])])).ssl().is_none());
}

#[test]
fn bytes_behind_the_header_belong_to_the_service() {
    for (family, block, from, _) in families() {
        let bytes = header(0x21, family | 1, &[&block]);
        for rest in [&b"TEST DATA\r\n\r\nTEST DATA"[..], &bytes, b"\0"] {
            let (header, len) = parsed(&[&bytes, rest].concat()).unwrap().unwrap();
            assert_eq!((source(&header).as_deref(), len), (Some(from), bytes.len()));
        }
    }
}

#[test]
fn other_versions_commands_families_and_transports_are_refused_at_their_byte() {
    use HeaderError::{BadCommand, BadFamily, BadVersion};
    for (command, family, error) in [
        (0x11, 0x11, BadVersion(1)),
        (0x01, 0x11, BadVersion(0)),
        (0x31, 0x11, BadVersion(3)),
        (0x22, 0x11, BadCommand(2)),
        (0x23, 0x11, BadCommand(3)),
        (0x2f, 0x11, BadCommand(15)),
        (0x21, 0x40, BadFamily(0x40)),
        (0x21, 0x41, BadFamily(0x41)),
        (0x21, 0xf1, BadFamily(0xf1)),
        (0x21, 0x13, BadFamily(0x13)),
        (0x21, 0x24, BadFamily(0x24)),
        (0x21, 0x0f, BadFamily(0x0f)),
    ] {
        let bytes = header(command, family, &[V4]);
        assert_eq!(bad(&bytes), error);
        let at = if matches!(error, BadFamily(_)) { 14 } else { 13 };
        assert!(parsed(&bytes[..at - 1]).is_none());
        assert_eq!(bad(&bytes[..at]), error);
    }
}

#[test]
fn a_length_without_room_for_the_addresses_is_refused_before_they_come() {
    for (family, block, ..) in families() {
        for short in [0, 1, block.len() - 1] {
            let bytes = header(0x21, family | 1, &[&block[..short]]);
            assert_eq!(bad(&bytes[..16]), HeaderError::TooShort { len: 16 + short });
        }
    }
}

#[test]
fn a_length_over_the_limit_is_refused_before_anything_of_it_comes() {
    let noop = |len: usize| tlv(Tlv::NOOP, &vec![0; len - 16 - 12 - 3]);
    let largest = header(0x21, 0x11, &[V4, &noop(MAX_HEADER)]);
    assert_eq!(largest.len(), MAX_HEADER);
    good(&largest);
    for command in [0x20, 0x21] {
        let larger = header(command, 0x11, &[V4, &noop(MAX_HEADER + 1)]);
        assert_eq!(bad(&larger[..16]), HeaderError::TooLarge { len: MAX_HEADER + 1 });
        let bytes = [SIGNATURE, &[command, 0x11, 0xff, 0xff]].concat();
        assert_eq!(bad(&bytes), HeaderError::TooLarge { len: 65_551 });
    }
}

#[test]
fn values_that_do_not_fill_the_length_exactly_are_refused() {
    for values in
        [&b"\x04"[..], b"\x04\0", b"\x04\0\x01", b"\x04\0\x09\0", b"\x04\xff\xff", b"\x04\0\0\x04"]
    {
        for (family, block, ..) in families() {
            assert_eq!(
                bad(&header(0x21, family | 1, &[&block, values])),
                HeaderError::BadTlv,
                "{values:?}"
            );
        }
        // There the block is skipped unread.
        good(&header(0x20, 0, &[values]));
    }
}

/// A header up to the value of its checksum.
const WITH_CHECKSUM: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x13\x7f\0\0\x01\x7f\0\0\x01\x1f\x90\x22\xb8\x03\0\x04";

/// The CRC-32C of a header bit by bit, as RFC 4960 has it, without the crate.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0x82F6_3B78 } else { 0 }
        })
    })
}

#[test]
fn a_checksum_is_checked_if_there_is_one() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283, "the check value of the catalogues");
    let sum = crc32c(&[WITH_CHECKSUM, &[0; 4]].concat()).to_be_bytes();
    let header = good(&[WITH_CHECKSUM, &sum].concat());
    assert_eq!(header.tlv(Tlv::CRC32C), Some(&sum[..]));
    for bit in 0..32 {
        let wrong = (u32::from_be_bytes(sum) ^ (1 << bit)).to_be_bytes();
        assert_eq!(bad(&[WITH_CHECKSUM, &wrong].concat()), HeaderError::BadChecksum);
    }
    // Any other byte of the header counts as well.
    for at in 16..28 {
        let mut bytes = [WITH_CHECKSUM, &sum].concat();
        bytes[at] ^= 1;
        assert_eq!(bad(&bytes), HeaderError::BadChecksum);
    }
}

#[test]
fn a_checksum_of_another_size_or_given_twice_is_refused() {
    for value in [&b""[..], b"\0\0\0", b"\0\0\0\0\0"] {
        assert_eq!(
            bad(&header(0x21, 0x11, &[V4, &tlv(Tlv::CRC32C, value)])),
            HeaderError::BadChecksum
        );
    }
    let twice = tlv(Tlv::CRC32C, &[0; 4]).repeat(2);
    assert_eq!(bad(&header(0x21, 0x11, &[V4, &twice])), HeaderError::BadChecksum);
    assert_eq!(bad(&header(0x20, 0x00, &[&tlv(Tlv::CRC32C, &[0; 4])])), HeaderError::BadChecksum);
}
