//! Version 1: a line of text.

use ropewalk_middleware::proxy::{HeaderError, ParseStatus, Transport, Version, parse};

use super::{bad, destination, good, parsed, source};

#[track_caller]
fn told(line: &str) -> (String, String) {
    let header = good(line.as_bytes());
    assert_eq!(
        (header.version(), header.transport(), header.is_local()),
        (Version::V1, Transport::Stream, false)
    );
    assert_eq!(header.client(), header.source());
    assert_eq!(header.tlvs().count(), 0);
    (source(&header).unwrap(), destination(&header).unwrap())
}

fn pair(source: &str, destination: &str) -> (String, String) {
    (source.to_owned(), destination.to_owned())
}

#[test]
fn a_line_tells_both_addresses() {
    assert_eq!(
        told("PROXY TCP4 127.0.0.1 127.0.0.1 8080 8888\r\n"),
        pair("tcp:127.0.0.1:8080", "tcp:127.0.0.1:8888"),
    );
    assert_eq!(told("PROXY TCP6 ::1 ::1 8080 8888\r\n"), pair("tcp:[::1]:8080", "tcp:[::1]:8888"));
    assert_eq!(told("PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n"), pair("tcp:0.0.0.0:0", "tcp:0.0.0.0:0"));
    assert_eq!(told("PROXY TCP6 :: :: 0 0\r\n"), pair("tcp:[::]:0", "tcp:[::]:0"));
    assert_eq!(
        told("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n"),
        pair("tcp:255.255.255.255:65535", "tcp:255.255.255.255:65535"),
    );
    // What nginx writes there.
    assert_eq!(
        told("PROXY TCP6 2001:db8::9 192.0.2.1 40000 25\r\n"),
        pair("tcp:[2001:db8::9]:40000", "tcp:[::ffff:192.0.2.1]:25"),
    );
    assert_eq!(
        told("PROXY TCP4 192.0.2.7 2001:db8::1 40000 25\r\n"),
        pair("tcp:[::ffff:192.0.2.7]:40000", "tcp:[2001:db8::1]:25"),
    );
    // The shortest of each family: no read asks for more than them.
    assert_eq!(told("PROXY TCP4 0.0.0.0 :: 0 0\r\n"), pair("tcp:[::ffff:0.0.0.0]:0", "tcp:[::]:0"));
    assert_eq!(
        told("PROXY TCP4 1.2.3.4 ::1 0 0\r\n"),
        pair("tcp:[::ffff:1.2.3.4]:0", "tcp:[::1]:0")
    );
    // What HAProxy writes where the two ends are of different families.
    assert_eq!(
        told("PROXY TCP6 ::ffff:192.0.2.1 2001:DB8::1 1 2\r\n"),
        pair("tcp:[::ffff:192.0.2.1]:1", "tcp:[2001:db8::1]:2"),
    );
}

#[test]
fn the_longest_line_has_104_bytes_with_addresses_and_107_of_unknown_ones() {
    let ip = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let line = format!("PROXY TCP6 {ip} {ip} 65535 65535\r\n");
    assert_eq!(line.len(), 104);
    told(&line);
    let line = format!("PROXY UNKNOWN {ip} {ip} 65535 65535\r\n");
    assert_eq!(line.len(), 107);
    assert_eq!(good(line.as_bytes()).source(), None);
}

#[test]
fn unknown_tells_nothing_whatever_else_it_says() {
    for line in [
        "PROXY UNKNOWN\r\n",
        "PROXY UNKNOWN \r\n",
        "PROXY UNKNOWN anything could go here\r\n",
        "PROXY UNKNOWN a b c d e f g h i j\r\n",
        "PROXY UNKNOWN 1.1.1.1 2.2.2.2 1 2\r\n",
    ] {
        let header = good(line.as_bytes());
        assert_eq!((header.source(), header.destination(), header.client()), (None, None, None));
        assert_eq!((header.transport(), header.is_local()), (Transport::Unspecified, false));
    }
}

#[test]
fn bytes_behind_the_line_belong_to_the_service() {
    for rest in ["HTTP/1.1 GET /\r\n", "\r\n", "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n", "\0"] {
        let (header, len) =
            parsed(format!("PROXY TCP4 127.0.0.1 127.0.0.1 8080 8888\r\n{rest}").as_bytes())
                .unwrap()
                .unwrap();
        assert_eq!((source(&header).unwrap().as_str(), len), ("tcp:127.0.0.1:8080", 42));
    }
}

#[test]
fn nothing_else_is_a_line() {
    use HeaderError::{BadAddress, BadByte, BadFields, BadPort, BadProtocol};
    for (rest, error) in [
        ("WUTPROTO a b 1 2", BadProtocol),
        ("tcp4 1.1.1.1 2.2.2.2 1 2", BadProtocol),
        ("TCP 1.1.1.1 2.2.2.2 1 2", BadProtocol),
        ("UNKNOWNfoo", BadProtocol),
        ("unknown", BadProtocol),
        ("", BadProtocol),
        (" TCP4 1.1.1.1 2.2.2.2 1 2", BadProtocol),
        ("TCP4", BadFields),
        ("TCP4 ", BadFields),
        ("TCP4 127.0.0.1 8080 8888", BadFields),
        ("TCP4 1.1.1.1", BadFields),
        ("TCP4 1.1.1.1 2.2.2.2 1", BadFields),
        ("TCP4 1.1.1.1 2.2.2.2 1 2 3", BadFields),
        ("TCP4 1.1.1.1 2.2.2.2 1 2 ", BadFields),
        ("TCP4  1.1.1.1 2.2.2.2 1 2", BadFields),
        ("TCP4 1.1.1.1 2.2.2.2  1", BadPort),
        ("TCP4 999.1.1.1 2.2.2.2 1 2", BadAddress),
        ("TCP4 01.1.1.1 2.2.2.2 1 2", BadAddress),
        ("TCP4 1.1.1 2.2.2.2 1 2", BadAddress),
        ("TCP4 1.1.1.1 2.2.2.2.2 1 2", BadAddress),
        ("TCP4 ::1 ::1 1 2", BadAddress),
        ("TCP4 1.1.1.1 localhost 1 2", BadAddress),
        ("TCP4 1.1.1.1 ::1%1 1 2", BadAddress),
        ("TCP6 ::1 01.1.1.1 1 2", BadAddress),
        ("TCP6 1.1.1.1 2.2.2.2 1 2", BadAddress),
        ("TCP6 ::1%1 ::1 1 2", BadAddress),
        ("TCP6 [::1] ::1 1 2", BadAddress),
        ("TCP6 1:2:3:4:5:6:7 ::1 1 2", BadAddress),
        ("TCP6 1::2::3 ::1 1 2", BadAddress),
        ("TCP6 00001::1 ::1 1 2", BadAddress),
        ("TCP4 localhost 2.2.2.2 1 2", BadAddress),
        ("TCP4 1.1.1.1 2.2.2.2 65536 2", BadPort),
        ("TCP4 1.1.1.1 2.2.2.2 70000 2", BadPort),
        ("TCP4 1.1.1.1 2.2.2.2 1 99999999999", BadPort),
        ("TCP4 1.1.1.1 2.2.2.2 007 2", BadPort),
        ("TCP4 1.1.1.1 2.2.2.2 1 00", BadPort),
        ("TCP4 1.1.1.1 2.2.2.2 +1 2", BadPort),
        ("TCP4 1.1.1.1 2.2.2.2 1 -5", BadPort),
        ("TCP4 1.1.1.1 2.2.2.2 80x 2", BadPort),
        ("TCP4 1.1.1.1 2.2.2.2 0x50 2", BadPort),
        ("TCP4 1.1.1.1\t2.2.2.2 1 2", BadByte),
        ("TCP4 1.1.1.1 2.2.2.2 1 2\n", BadByte),
        ("TCP4 1.1.1.1 2.2.2.2 1 2\r\r", BadByte),
        ("TCP4 1.1.1.1 2.2.2.2 1 2\rx", BadByte),
        ("TCP4 1.1.1.1 2.2.2.2 1 2\0", BadByte),
        ("UNKNOWN\n", BadByte),
        ("UNKNOWN a\nb", BadByte),
        ("UNKNOWN a\rb", BadByte),
        ("UNKNOWN \0", BadByte),
        ("UNKNOWN \u{7f}", BadByte),
        ("UNKNOWN é", BadByte),
    ] {
        assert_eq!(bad(format!("PROXY {rest}\r\n").as_bytes()), error, "{rest:?}");
    }
}

#[test]
fn a_line_without_its_end_is_refused_when_107_bytes_can_not_hold_it_any_more() {
    for text in ["PROXY UNKNOWN ".to_owned(), "PROXY TCP4 127.0.0.1 127.0.0.1 ".to_owned()] {
        let line = format!("{text}{}", " ".repeat(200));
        assert!(parsed(&line.as_bytes()[..105]).is_none());
        assert_eq!(bad(&line.as_bytes()[..106]), HeaderError::LineTooLong);
        assert_eq!(bad(line.as_bytes()), HeaderError::LineTooLong);
    }
    assert_eq!(
        bad(format!("PROXY UNKNOWN {}\r\n", "x".repeat(92)).as_bytes()),
        HeaderError::LineTooLong
    );
    good(format!("PROXY UNKNOWN {}\r\n", "x".repeat(91)).as_bytes());
}

#[test]
fn a_line_takes_few_reads_although_no_read_goes_beyond_it() {
    let line = b"PROXY TCP4 192.168.100.100 192.168.100.101 56324 44300\r\n";
    let (mut at, mut reads) = (0, 0);
    while let ParseStatus::Incomplete { need } = parse(&line[..at]).unwrap() {
        at += need;
        reads += 1;
    }
    assert_eq!(at, line.len());
    assert!(reads <= 12, "{reads}");
}
