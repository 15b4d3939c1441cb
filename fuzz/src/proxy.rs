//! PROXY headers.

use ropewalk::Addr;
use ropewalk::proxy::{
    Header, HeaderError, MAX_HEADER, ParseStatus, Tlv, Transport, Version, parse,
};

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// What bytes turned out to begin with.
type Decided = Result<(Header, usize), HeaderError>;

/// A header is the same however its bytes come, nothing behind it counts, and what is written of it
/// is read as the same.
///
/// The first byte chooses what the others stand behind, so that it need not be found: the beginning
/// of one version or the other, or nothing.
pub fn proxy(data: &[u8]) {
    let Some((&choice, rest)) = data.split_first() else { return };
    let bytes = match choice % 4 {
        0 => rest.to_vec(),
        1 => [b"PROXY ", rest].concat(),
        2 => [V2, rest].concat(),
        // With the length that the bytes have.
        _ => match (rest.split_first_chunk::<2>(), u16::try_from(rest.len().saturating_sub(2))) {
            (Some((kind, body)), Ok(len)) => [V2, kind, &len.to_be_bytes(), body].concat(),
            _ => return,
        },
    };
    if let Some(Ok((header, len))) = decided(&bytes) {
        assert!(
            len <= if header.version() == Version::V1 { 107 } else { MAX_HEADER },
            "{len} bytes"
        );
        is_sound(&header);
        is_written(&header);
    }
}

/// Every prefix is incomplete up to where it is decided; then nothing changes any more, and no more
/// was asked for.
fn decided(bytes: &[u8]) -> Option<Decided> {
    let (mut decided, mut asked): (Option<Decided>, _) = (None, 0);
    for at in 0..=bytes.len() {
        let now = match parse(&bytes[..at]) {
            Ok(ParseStatus::Incomplete { need }) => {
                assert!(need > 0 && decided.is_none(), "incomplete at {at}, after {decided:?}");
                asked = asked.max(at + need);
                continue;
            }
            Ok(ParseStatus::Complete { header, len }) => Ok((header, len)),
            Err(error) => Err(error),
        };
        match &decided {
            Some(before) => assert_eq!(&now, before, "at {at}"),
            None => {
                if let Ok((_, len)) = &now {
                    assert_eq!(*len, at);
                    assert!(asked <= at, "{asked} bytes were asked for, of {at}");
                }
                decided = Some(now);
            }
        }
    }
    decided
}

fn is_sound(header: &Header) {
    let told = header.source().is_some();
    assert_eq!(told, header.destination().is_some());
    assert_eq!(told, header.transport() != Transport::Unspecified);
    assert!(!(told && header.is_local()));
    assert_eq!(
        header.client(),
        header.source().filter(|_| header.transport() == Transport::Stream)
    );
    for addr in [header.source(), header.destination()].into_iter().flatten() {
        assert!(!addr.to_string().chars().any(char::is_control), "{addr}");
    }
    for tlv in header.tlvs() {
        assert!(header.tlv(tlv.kind).is_some());
    }
    if let Some(ssl) = header.ssl() {
        assert!(ssl.tlvs().count() <= MAX_HEADER);
    }
}

fn is_written(header: &Header) {
    let values = |header: &Header| {
        // The checksum is that of the header it stands in.
        header
            .tlvs()
            .filter(|tlv| tlv.kind != Tlv::CRC32C)
            .map(|tlv| (tlv.kind, tlv.value.to_vec()))
            .collect::<Vec<_>>()
    };
    let read = |bytes: &[u8]| match parse(bytes) {
        Ok(ParseStatus::Complete { header, len }) if len == bytes.len() => header,
        other => panic!("{other:?} is read of {}", bytes.escape_ascii()),
    };
    let binary = read(&header.to_v2());
    assert_eq!((binary.source(), binary.destination()), (header.source(), header.destination()));
    assert_eq!((binary.is_local(), binary.transport()), (header.is_local(), header.transport()));
    assert_eq!(values(&binary), values(header));

    let line = read(&header.to_v1());
    let tcp = header.client().filter(|client| matches!(client, Addr::Tcp(_)));
    assert_eq!(line.source(), tcp);
    assert_eq!(line.destination(), header.destination().filter(|_| tcp.is_some()));
}
