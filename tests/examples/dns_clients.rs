//! The DNS example and the clients the world has.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::encrypted::{Ca, text};
use crate::support::{Example, TempDir, command, program};

#[track_caller]
fn success(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The example over TCP and, as `first`, over TLS; and the file with its certificate's issuer.
fn start() -> (Example, PathBuf) {
    let (ca, dir) = (Ca::new(), TempDir::new());
    let issued = ca.issue(["ns1.example.org"]);
    let (both, ca_file) = (dir.join("both.pem"), dir.join("ca.pem"));
    fs::write(&both, format!("{}{}", issued.cert, issued.key)).unwrap();
    fs::write(&ca_file, ca.pem()).unwrap();
    let mut command = command("dns");
    command.args([
        "--zone",
        concat!(env!("CARGO_MANIFEST_DIR"), "/examples/dns/example.zone"),
        "--listen",
    ]);
    command.arg(format!("tls:127.0.0.1:0?cert={0}&key={0}&alpn=dot", text(&both)));
    (Example::spawn_behind(command, dir), ca_file)
}

/// What a client of dig's kind prints when it asks these in one go.
fn asked(client: &Path, options: &[&str], server: SocketAddr, questions: &[&str]) -> String {
    let mut command = Command::new(client);
    command.arg(format!("@{}", server.ip())).args(["-p", &server.port().to_string()]).args(options);
    success(
        &command.args(questions.iter().flat_map(|question| question.split(' '))).output().unwrap(),
    )
}

/// Questions, and what is printed of their answers in short.
const QUESTIONS: [&str; 4] =
    ["www.example.org A", "web.example.org AAAA", "x.wild.example.org TXT", "example.org MX"];
const SHORT: &str = "192.0.2.80\nwww.example.org.\n2001:db8::80\n\"any name below wild that is not there itself\"\n\
    10 mail.example.org.\n";

#[test]
fn dig_has_its_answers_over_tcp_and_tls() {
    let Some(dig) = program("dig") else { return };
    let (example, ca_file) = start();
    let ca_file = format!("+tls-ca={}", text(&ca_file));
    let tls = ["+tls", &ca_file, "+tls-hostname=ns1.example.org", "+keepopen"];
    for (options, server) in [(&["+tcp", "+keepopen"][..], example.tcp), (&tls, example.first)] {
        let options = [&["+time=20", "+tries=1"], options].concat();
        assert_eq!(asked(&dig, &[&options[..], &["+short"]].concat(), server, &QUESTIONS), SHORT);
        for (question, said) in [
            ("www.example.org", "status: NOERROR"),
            ("www.example.org", "flags: qr aa rd;"),
            ("nope.example.org", "status: NXDOMAIN"),
            ("example.net", "status: REFUSED"),
            ("+opcode=2 www.example.org", "status: NOTIMP"),
            ("+header-only example.org", "status: FORMERR"),
            ("+edns=1 +noednsneg www.example.org", "status: BADVERS"),
            ("+dnssec www.example.org", "EDNS: version: 0, flags: do;"),
            ("+keepalive www.example.org", "TCP KEEPALIVE: 10.0 secs"),
            ("+noedns +noadflag www.example.org", "ADDITIONAL: 0"),
            ("host.sub.example.org", "ns.sub.example.org.\t3600\tIN\tA\t192.0.2.53"),
            ("example.org AXFR", "Transfer failed"),
        ] {
            let said_all = asked(&dig, &options, server, &[question]);
            assert!(said_all.contains(said), "{question}: {said:?} in {said_all}");
            assert!(
                !said_all.contains("Warning") && !said_all.contains("malformed"),
                "{question}: {said_all}"
            );
        }
    }
}

#[test]
fn kdig_trusts_the_certificate_and_has_its_answer() {
    let Some(kdig) = program("kdig") else { return };
    let (example, ca_file) = start();
    let ca_file = format!("+tls-ca={}", text(&ca_file));
    let options =
        ["+tls", &ca_file, "+tls-hostname=ns1.example.org", "+keepopen", "+time=20", "+retry=0"];
    assert_eq!(
        asked(&kdig, &[&options[..], &["+short"]].concat(), example.first, &QUESTIONS),
        SHORT
    );
    let whole = asked(&kdig, &options, example.first, &["+padding=128 www.example.org"]);
    assert!(whole.contains("TLS session (TLS1.3)") && whole.contains("status: NOERROR"), "{whole}");
    // As kdig pads by itself over TLS.
    for padding in ["+padding=128", "+padding", "+alignment"] {
        let whole = asked(&kdig, &options, example.first, &[&format!("{padding} www.example.org")]);
        assert!(whole.contains("PADDING: ") && whole.contains("Received 468 B"), "{whole}");
    }
    assert_eq!(asked(&kdig, &["+tcp", "+short"], example.tcp, &QUESTIONS[..1]), "192.0.2.80\n");
}

#[test]
fn dnsperf_loses_no_query_over_tcp_and_tls() {
    let Some(dnsperf) = program("dnsperf") else { return };
    let (example, _) = start();
    let file = example.dir.join("queries");
    fs::write(&file, "www.example.org A\nexample.org MX\nnope.example.org A\nexample.net A\n")
        .unwrap();
    for (mode, server, runs) in [("tcp", example.tcp, 10_000), ("dot", example.first, 5_000)] {
        let mut command = Command::new(&dnsperf);
        command
            .args(["-m", mode, "-s", "127.0.0.1", "-p", &server.port().to_string(), "-d"])
            .arg(&file);
        command.args(["-n", &runs.to_string(), "-c", "8", "-q", "500", "-t", "20", "-e", "-D"]);
        let report = success(&command.output().unwrap());
        let number = |name: &str| {
            let line = report.lines().find_map(|line| line.trim().strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name} in {report}")).trim().to_owned()
        };
        assert_eq!(
            number("Queries completed:"),
            format!("{} (100.00%)", 4 * runs),
            "{mode}: {report}"
        );
        assert_eq!(number("Queries lost:"), "0 (0.00%)", "{mode}: {report}");
        assert_eq!(number("Reconnections:"), "0", "{mode}: {report}");
        let codes = [("NOERROR", 2, "50"), ("NXDOMAIN", 1, "25"), ("REFUSED", 1, "25")];
        for code in
            codes.map(|(code, share, percent)| format!("{code} {} ({percent}.00%)", share * runs))
        {
            assert!(number("Response codes:").contains(&code), "{mode}: {code} in {report}");
        }
    }
}
