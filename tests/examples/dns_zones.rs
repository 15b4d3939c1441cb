//! The DNS example and its zone files, as people write them.

use std::fs;

use domain::base::Rtype;
use domain::base::message::Section;

use crate::asked::{ask, plain, shown, told};
use crate::support::{Example, TempDir, command, run};

/// The example with a zone file of this content.
fn start(zone: &str) -> Example {
    let dir = TempDir::new();
    let file = dir.join("test.zone");
    fs::write(&file, zone).unwrap();
    let mut command = command("dns");
    command.arg("--zone").arg(&file);
    Example::spawn(command, dir)
}

/// What is answered in the first section, with the TTL of each record in front.
fn answers(example: &Example, question: &str) -> Vec<String> {
    let (name, rtype) = question.split_once(' ').unwrap();
    let answer = ask(&mut example.tcp(), &plain(7, name, rtype.parse().unwrap()));
    let ttls = answer.answer().unwrap().map(|record| record.unwrap().ttl().as_secs().to_string());
    ttls.zip(told(&answer, Section::Answer))
        .map(|(ttl, record)| format!("{ttl} {record}"))
        .collect()
}

const SOA: &str = "@ IN SOA ns1 host 1 7200 1800 1209600 300\n";

#[test]
fn a_zone_file_needs_neither_classes_nor_an_end_of_its_last_line() {
    let whole = format!("$ORIGIN example.org.\n$TTL 60\n{SOA}@ IN NS ns1\nns1 IN A 192.0.2.1\n");
    let bare = whole.replace(" IN ", " ");
    let (marked, dos) = (format!("\u{feff}{bare}"), whole.replace('\n', "\r\n"));
    for zone in [whole.as_str(), whole.trim_end(), &bare, bare.trim_end(), &marked, &dos] {
        for end in ["", " ", "; a comment", "\t; a comment (", "\n\n", "\r\n"] {
            let example = start(&format!("{zone}{end}"));
            assert_eq!(
                answers(&example, "ns1.example.org A"),
                ["60 ns1.example.org A 192.0.2.1"],
                "{zone:?}{end:?}"
            );
        }
    }
}

#[test]
fn times_have_units_where_a_time_stands_and_nowhere_else() {
    let example = start(
        "$ORIGIN example.org.\n$TTL 1h30m ; and so on\n@ SOA ns1 host (\n 2026010101 ; 1h\n 2H 30m 2w 1d )\n 1D NS ns1\n\
        1h A 192.0.2.1\n1d IN 1w A 192.0.2.2\n2d 10 IN A 192.0.2.3\nsoa in 1W CNAME 1h\nttl TXT 1h \"1d\" 10\n",
    );
    for (question, told) in [
        (
            "example.org SOA",
            "5400 example.org SOA ns1.example.org. host.example.org. 2026010101 7200 1800 1209600 86400",
        ),
        ("example.org NS", "86400 example.org NS ns1.example.org."),
        ("1h.example.org A", "5400 1h.example.org A 192.0.2.1"),
        ("1d.example.org A", "604800 1d.example.org A 192.0.2.2"),
        ("2d.example.org A", "10 2d.example.org A 192.0.2.3"),
        ("soa.example.org CNAME", "604800 soa.example.org CNAME 1h.example.org."),
        ("ttl.example.org TXT", "5400 ttl.example.org TXT \"1h\" \"1d\" \"10\""),
    ] {
        assert_eq!(answers(&example, question), [told], "{question}");
    }
}

#[test]
fn an_at_sign_is_the_origin_wherever_a_name_stands() {
    let example = start(&format!(
        "$ORIGIN example.org.\n$TTL 60\n{SOA} NS @\n MX 10 @\nwww CNAME @\n_x._tcp SRV 0 0 80 @\ntext TXT @ \"@\" \"; (\"\n\
        $origin sub\nhost CNAME @\n@ A 192.0.2.2\n"
    ));
    for (question, told) in [
        ("example.org NS", &["60 example.org NS example.org."][..]),
        ("example.org MX", &["60 example.org MX 10 example.org."]),
        ("www.example.org CNAME", &["60 www.example.org CNAME example.org."]),
        ("_x._tcp.example.org SRV", &["60 _x._tcp.example.org SRV 0 0 80 example.org"]),
        ("text.example.org TXT", &["60 text.example.org TXT \"@\" \"@\" \"; (\""]),
        (
            "host.sub.example.org A",
            &["60 host.sub.example.org CNAME sub.example.org.", "60 sub.example.org A 192.0.2.2"],
        ),
    ] {
        assert_eq!(answers(&example, question), told, "{question}");
    }
}

#[test]
fn a_chain_of_aliases_is_followed_to_where_the_zone_ends_and_not_for_ever() {
    let soa = format!("$ORIGIN example.org.\n$TTL 60\n{SOA}sub NS ns1\nwww A 192.0.2.80\n");
    let eight: String = (0..7)
        .map(|n| format!("b{n} CNAME b{}\n", n + 1))
        .chain(["b7 CNAME www\n".into()])
        .collect();
    let chain: String = (0..40).map(|n| format!("a{n} CNAME a{}\n", n + 1)).collect();
    let others = "self CNAME self\ntic CNAME tac\ntac CNAME tic\ngone CNAME nope\nout CNAME example.net.\n\
        down CNAME host.sub\nbare CNAME example.org.\n";
    let example = start(&format!("{soa}{eight}{chain}{others}"));
    let mut client = example.tcp();
    let rows = [
        // As far as 32 aliases lead, and then the client may ask on.
        ("a7", "NOERROR", 32, 0),
        ("a8", "NXDOMAIN", 32, 1),
        ("a32", "NXDOMAIN", 8, 1),
        ("self", "NOERROR", 1, 0),
        ("tic", "NOERROR", 2, 0),
        // The code is the last name's (RFC 6604).
        ("gone", "NXDOMAIN", 1, 1),
        ("out", "NOERROR", 1, 0),
        ("down", "NOERROR", 1, 1),
        ("bare", "NOERROR", 1, 1),
    ];
    for (name, rcode, aliases, authority) in rows {
        let answer = ask(&mut client, &plain(7, &format!("{name}.example.org"), Rtype::A));
        assert_eq!(answer.header().rcode().to_string(), rcode, "{name}");
        assert!(answer.header().aa(), "{name}");
        assert_eq!(told(&answer, Section::Answer).len(), aliases, "{name}");
        assert_eq!(told(&answer, Section::Authority).len(), authority, "{name}");
    }
    let answer = ask(&mut client, &plain(7, "b0.example.org", Rtype::A));
    assert!(
        shown(&answer)
            .contains("b7.example.org CNAME www.example.org., www.example.org A 192.0.2.80 |")
    );
}

#[test]
fn a_zone_that_makes_no_sense_is_not_served() {
    let dir = TempDir::new();
    let zone = dir.join("bad.zone");
    let soa = "example.org. 60 IN SOA ns1.example.org. host.example.org. 1 1 1 1 1\n";
    for (text, complaint) in [
        (String::new(), "a zone has one SOA record"),
        (soa.repeat(2), "a zone has one SOA record"),
        (
            format!("{soa}example.net. 60 IN A 192.0.2.1\n"),
            "example.net is not in the zone example.org",
        ),
        (
            format!("{soa}a.example.org. 60 IN CNAME b.example.org.\n 60 IN A 192.0.2.1\n"),
            "an alias has no other records",
        ),
        (format!("{soa}a.example.org. 60 IN DNAME example.net.\n"), "DNAME is not served here"),
        (format!("{soa}$INCLUDE other.zone\n"), "$INCLUDE other.zone"),
        (format!("{soa}a.example.org. 60 IN A 192.0.2.256\n"), "expected IPv4 address"),
    ] {
        fs::write(&zone, text).unwrap();
        let mut command = command("dns");
        command.args(["--listen", "tcp:127.0.0.1:0", "--zone"]).arg(&zone);
        let (status, words) = run(command);
        assert!(
            !status.success() && words.contains("bad.zone: ") && words.contains(complaint),
            "{words:?} names {complaint:?}"
        );
    }
}
