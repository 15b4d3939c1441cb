//! The DNS example, driven from outside: the rules of the RFCs for questions, for invalid messages
//! and for connections.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

use domain::base::iana::{Class, Opcode, OptRcode};
use domain::base::message::Section;
use domain::base::opt::{Padding, TcpKeepalive};
use domain::base::{MessageBuilder, Name, Rtype};

use crate::asked::{ask, framed, plain, query, receive, shown, told};
use crate::support::{Client, Dice, Example, TempDir, segmentations};

const ZONE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/dns/example.zone");

fn start(args: &[&str]) -> Example {
    Example::start_with("dns", &[&["--zone", ZONE], args].concat())
}

macro_rules! soa {
    ($code:literal) => {
        concat!(
            $code,
            " aa |  | example.org SOA ns1.example.org. hostmaster.example.org. 2026010101 7200 3600 1209600 300 | "
        )
    };
}

const ROWS: [(&str, &str); 17] = [
    ("www.example.org A", "NOERROR aa | www.example.org A 192.0.2.80 |  | "),
    ("WWW.eXample.org A", "NOERROR aa | WWW.eXample.org A 192.0.2.80 |  | "),
    (
        "example.org MX",
        "NOERROR aa | example.org MX 10 mail.example.org. |  | mail.example.org A 192.0.2.25",
    ),
    (
        "web.example.org A",
        "NOERROR aa | web.example.org CNAME www.example.org., www.example.org A 192.0.2.80 |  | ",
    ),
    ("web.example.org CNAME", "NOERROR aa | web.example.org CNAME www.example.org. |  | "),
    // There is the name, but nothing of the kind.
    ("www.example.org MX", soa!("NOERROR")),
    ("www.example.org TYPE65400", soa!("NOERROR")),
    // A name that only leads to others is there (RFC 8020).
    ("_tcp.example.org A", soa!("NOERROR")),
    ("nope.example.org A", soa!("NXDOMAIN")),
    ("x.there.wild.example.org TXT", soa!("NXDOMAIN")),
    ("there.wild.example.org TXT", soa!("NOERROR")),
    (
        "x.y.wild.example.org TXT",
        "NOERROR aa | x.y.wild.example.org TXT \"any name below wild that is not there itself\" |  | ",
    ),
    (
        "host.sub.example.org A",
        "NOERROR |  | sub.example.org NS ns.sub.example.org. | ns.sub.example.org A 192.0.2.53",
    ),
    ("sub.example.org DS", soa!("NOERROR")),
    ("example.net A", "REFUSED |  |  | "),
    ("notexample.org A", "REFUSED |  |  | "),
    ("org NS", "REFUSED |  |  | "),
];

#[test]
fn a_question_is_answered_from_the_zone() {
    let example = start(&[]);
    for mut client in example.both() {
        for (asked, expected) in ROWS {
            let (name, rtype) = asked.split_once(' ').unwrap();
            let answer = ask(&mut client, &plain(7, name, rtype.parse().unwrap()));
            assert_eq!(shown(&answer), expected, "{asked}");
            assert!(answer.header().rd() && !answer.header().tc());
            let question = answer.sole_question().unwrap();
            // In the letters it was asked in.
            assert_eq!(format!("{} {}", question.qname(), question.qtype()), asked);
            assert!(
                answer.opt().is_none(),
                "a query without an OPT record has an answer without one"
            );
        }
        let answer = ask(&mut client, &plain(8, "example.org", Rtype::ANY));
        assert_eq!(told(&answer, Section::Answer).len(), 5);
        // What is not there may be forgotten after the SOA record's minimum (RFC 2308).
        let answer = ask(&mut client, &plain(9, "nope.example.org", Rtype::A));
        assert_eq!(answer.authority().unwrap().next().unwrap().unwrap().ttl().as_secs(), 300);
    }
}

#[test]
fn edns_is_answered_with_edns() {
    let example = start(&["--idle", "42"]);
    let mut client = example.tcp();
    let edns = |rtype, opts, version| query(7, "www.example.org", rtype, Class::IN, opts, version);
    let opcode = |mut message: Vec<u8>, opcode: Opcode| {
        message[2] = opcode.to_int() << 3;
        message
    };
    for (message, rcode) in [
        (edns(Rtype::A, 1, 0), OptRcode::NOERROR),
        (edns(Rtype::A, 1, 1), OptRcode::BADVERS),
        (edns(Rtype::AXFR, 1, 0), OptRcode::REFUSED),
        (edns(Rtype::TKEY, 1, 0), OptRcode::NOTIMP),
        (opcode(edns(Rtype::SOA, 1, 0), Opcode::NOTIFY), OptRcode::NOTIMP),
        (edns(Rtype::A, 2, 0), OptRcode::FORMERR),
    ] {
        let answer = ask(&mut client, &message);
        assert_eq!(answer.opt_rcode(), rcode);
        assert_eq!(answer.header().opcode().to_int(), message[2] >> 3);
        let opt = answer.opt().unwrap();
        assert_eq!((opt.version(), opt.dnssec_ok()), (0, true));
        let keepalive = opt.opt().first::<TcpKeepalive>().unwrap();
        assert_eq!(Duration::from(keepalive.timeout().unwrap()), Duration::from_secs(42));
    }
}

/// A query with a padding of so many bytes; with a wish to keep the connection, too.
fn padded(name: &str, rtype: Rtype, padding: u16, keepalive: bool) -> Vec<u8> {
    let mut question = MessageBuilder::new_vec().question();
    question.push((Name::vec_from_str(name).unwrap(), rtype, Class::IN)).unwrap();
    let mut additional = question.additional();
    additional
        .opt(|opt| {
            opt.padding(padding)?;
            if keepalive { opt.push(&TcpKeepalive::new(None)) } else { Ok(()) }
        })
        .unwrap();
    additional.finish()
}

#[test]
fn the_answer_to_a_padded_query_is_padded_to_whole_blocks_and_no_other_is() {
    let example = start(&[]);
    for mut client in example.both() {
        for (name, rtype) in [
            ("www.example.org", Rtype::A),
            ("nope.example.org", Rtype::A),
            ("x.wild.example.org", Rtype::TXT),
            ("example.org", Rtype::ANY),
            ("example.net", Rtype::A),
            ("example.org", Rtype::AXFR),
        ] {
            for (padding, keepalive) in [(0, false), (1, true), (400, false), (2000, true)] {
                let answer = ask(&mut client, &padded(name, rtype, padding, keepalive));
                assert_eq!(answer.as_slice().len() % 468, 0, "{name} {rtype} {padding}");
                let opt = answer.opt().unwrap();
                let padding = opt.opt().first::<Padding<_>>().unwrap();
                assert!(padding.as_slice().iter().all(|&byte| byte == 0));
                assert_eq!(opt.opt().first::<TcpKeepalive>().is_some(), keepalive);
            }
            let answer = ask(&mut client, &query(7, name, rtype, Class::IN, 1, 0));
            assert!(answer.opt().unwrap().opt().first::<Padding<_>>().is_none());
        }
    }
}

#[test]
fn an_unsupported_question_has_an_error_and_the_connection_goes_on() {
    let example = start(&[]);
    let good = plain(7, "www.example.org", Rtype::A);
    let with = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut message = good.clone();
        edit(&mut message);
        message
    };
    let rows = [
        ("no question", with(&|m| m[5] = 0), "FORMERR"),
        ("two announced", with(&|m| m[5] = 2), "FORMERR"),
        ("a header alone", with(&|m| m.truncate(12)), "FORMERR"),
        ("cut in the name", with(&|m| m.truncate(20)), "FORMERR"),
        (
            "a name that points to itself",
            with(&|m| m.splice(12..14, [0xc0, 12]).for_each(drop)),
            "FORMERR",
        ),
        ("records that are not there", with(&|m| m[11] = 200), "FORMERR"),
        ("an unknown opcode", with(&|m| m[2] = 15 << 3), "NOTIMP"),
        ("an update", with(&|m| m[2] = 5 << 3), "NOTIMP"),
        ("of class CH", query(7, "version.bind", Rtype::TXT, Class::CH, 0, 0), "REFUSED"),
        ("a transfer", plain(7, "example.org", Rtype::AXFR), "REFUSED"),
        ("of type OPT", plain(7, "example.org", Rtype::OPT), "FORMERR"),
        ("of type MAILB", plain(7, "example.org", Rtype::MAILB), "NOTIMP"),
    ];
    for mut client in example.both() {
        for (what, message, rcode) in &rows {
            let answer = ask(&mut client, message);
            assert_eq!(&answer.header().rcode().to_string(), rcode, "{what}");
            assert_eq!(answer.header_counts().ancount(), 0, "{what}");
        }
        // An answer is not answered: the next message is.
        client.send(framed(&with(&|m| m[2] = 0x80)));
        assert_eq!(
            ask(&mut client, &plain(8, "www.example.org", Rtype::A)).header_counts().ancount(),
            1
        );
        client.send(framed(b"short"));
        assert_eq!(client.rest(), b"", "where no id is, nothing can be answered");
    }
}

#[test]
fn a_pipelined_burst_is_answered_whole_in_any_segmentation() {
    let example = start(&[]);
    let burst = |ids: std::ops::Range<u16>| -> Vec<u8> {
        let name =
            |id: u16| if id.is_multiple_of(2) { "www.example.org" } else { "nope.example.org" };
        ids.flat_map(|id| framed(&plain(id, name(id), Rtype::A))).collect()
    };
    let check = |client: &mut Client, n: u16| {
        let mut open: HashSet<u16> = (0..n).collect();
        while !open.is_empty() {
            let answer = receive(client);
            let id = answer.header().id();
            assert!(open.remove(&id), "{id} is answered once");
            assert_eq!(answer.header_counts().ancount(), u16::from(id.is_multiple_of(2)), "{id}");
        }
        assert_eq!(client.rest(), b"");
    };
    let bytes = burst(0..30);
    for pieces in segmentations(&bytes) {
        for mut client in example.both() {
            client.send_pieces(&pieces);
            client.finish();
            check(&mut client, 30);
        }
    }
    for mut client in example.both() {
        client.send(burst(0..2000));
        client.finish();
        check(&mut client, 2000);
    }
}

#[test]
fn answers_overtake_one_that_takes_its_time() {
    let example = start(&["--slow", "mail.example.org"]);
    for mut client in example.both() {
        let late = framed(&plain(1, "MAIL.example.org", Rtype::A));
        let others = (2..5).flat_map(|id| framed(&plain(id, "www.example.org", Rtype::A)));
        client.send(late.into_iter().chain(others).collect::<Vec<_>>());
        client.finish();
        let answers = [(); 4].map(|()| receive(&mut client));
        assert_eq!(answers.each_ref().map(|answer| answer.header().id()), [2, 3, 4, 1]);
        assert_eq!(told(&answers[3], Section::Answer), ["MAIL.example.org A 192.0.2.25"]);
        assert_eq!(
            client.rest(),
            b"",
            "it is answered although the peer has said that nothing more will come"
        );
    }
}

#[test]
fn a_peer_that_keeps_us_waiting_is_closed_at_its_deadline() {
    let example = start(&["--idle", "1"]);
    let query = framed(&plain(7, "www.example.org", Rtype::A));
    // Nothing; a length and no message; a query, and then nothing; a query, and then half of one.
    let rows: [(&[u8], bool); 4] = [
        (b"", false),
        (b"\0\x1d", false),
        (&query, true),
        (&[&query[..], &query[..9]].concat(), true),
    ];
    let clients = rows.map(|(bytes, answered)| {
        let mut client = example.tcp();
        client.send(bytes);
        (client, answered, Instant::now())
    });
    for (mut client, answered, since) in clients {
        let rest = client.rest();
        assert_eq!(!rest.is_empty(), answered, "{}", rest.escape_ascii());
        // Not before, and not by the layer's own deadlines, the first of which is 10 s.
        assert!((0.9..9.0).contains(&since.elapsed().as_secs_f32()), "{:?}", since.elapsed());
    }
    // Nobody else is the worse for it.
    ask(&mut example.tcp(), &query[2..]);
}

#[test]
fn one_address_has_so_many_connections_and_no_more() {
    let example = start(&["--per-peer", "2"]);
    let query = plain(7, "www.example.org", Rtype::A);
    let mut clients = [(); 2].map(|()| example.tcp());
    clients.iter_mut().for_each(|client| drop(ask(client, &query)));
    assert_eq!(example.tcp().rest(), b"", "the third is closed without a word");
    clients.iter_mut().for_each(|client| drop(ask(client, &query)));
}

#[test]
#[cfg(target_os = "linux")] // elsewhere the loopback has one address
fn when_all_connections_are_taken_silent_ones_of_a_crowded_address_make_room() {
    let example = start(&["--connections", "2"]);
    let mut silent = [(); 2].map(|()| example.tcp());
    ask(&mut Client::tcp_from([127, 0, 0, 2], example.tcp), &plain(7, "www.example.org", Rtype::A));
    assert!(silent[0].ends(), "it was the first");
    ask(&mut silent[1], &plain(8, "www.example.org", Rtype::A));
}

#[test]
fn bytes_of_any_kind_cost_no_other_peer_an_answer() {
    let example = start(&[]);
    let seeds = [
        query(0, "x.wild.example.org", Rtype::ANY, Class::IN, 1, 0),
        plain(0, "_sip._tcp.example.org", Rtype::SRV),
        query(0, "host.sub.example.org", Rtype::MX, Class::IN, 2, 0),
    ];
    let mut dice = Dice::new(11);
    let mut client = example.tcp();
    for round in 0..3000_u16 {
        let mut message = seeds[dice.roll(3) - 1].clone();
        for _ in 0..dice.roll(4) {
            let at = 2 + dice.roll(message.len() - 2) - 1;
            message[at] =
                [0, 1, 0xc0, 0xff, u8::try_from(dice.roll(256) - 1).unwrap()][dice.roll(5) - 1];
        }
        message.truncate(if dice.roll(4) == 1 {
            11 + dice.roll(message.len() - 11)
        } else {
            message.len()
        });
        client.send(framed(&message));
        client.send(framed(&plain(round + 1, "www.example.org", Rtype::A)));
        let answer = std::iter::repeat_with(|| receive(&mut client))
            .find(|answer| answer.header().id() != 0)
            .unwrap();
        assert_eq!((answer.header().id(), answer.header_counts().ancount()), (round + 1, 1));
    }
}

#[test]
fn an_answer_that_is_too_long_for_its_length_is_marked_as_cut() {
    let dir = TempDir::new();
    let zone = dir.join("long.zone");
    let soa = "example.org. 60 IN SOA ns1 host 1 1 1 1 1\n";
    let text = |n: usize| format!("many 60 IN TXT \"{n:0200}\"\n");
    let file = |texts: usize| {
        format!("$ORIGIN example.org.\n{soa}{}", (0..texts).map(text).collect::<String>())
    };
    // 213 bytes for each of them, 77 for the short one.
    let short = format!("many 60 IN TXT \"{:064}\"\n", 0);
    for (texts, more, told_of, cut, padded_to) in [
        (307, "", 307, false, 65_520),
        (308, "", 307, true, 65_520),
        (307, &*short, 308, false, 65_535),
    ] {
        fs::write(&zone, file(texts) + more).unwrap();
        let example = Example::start_with("dns", &["--zone", zone.to_str().unwrap()]);
        let mut client = example.tcp();
        let answer = ask(&mut client, &query(7, "many.example.org", Rtype::TXT, Class::IN, 1, 0));
        assert_eq!(answer.header().tc(), cut);
        assert_eq!(told(&answer, Section::Answer).len(), told_of);
        assert!(answer.opt().is_some());
        // The last one has no room for a whole block.
        let answer = ask(&mut client, &padded("many.example.org", Rtype::TXT, 1, true));
        assert_eq!(
            (told(&answer, Section::Answer).len(), answer.as_slice().len()),
            (told_of, padded_to)
        );
    }
}
