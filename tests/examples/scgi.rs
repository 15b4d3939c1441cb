//! The SCGI example: driven directly, and behind nginx.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::support::{Client, Dice, Example, TempDir, program, segmentations, until};

/// A request with these variables behind the two every request has.
fn request(variables: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut header = format!("CONTENT_LENGTH\0{}\0SCGI\x001\0", body.len());
    for (name, value) in variables {
        header += &format!("{name}\0{value}\0");
    }
    [format!("{}:{header},", header.len()).as_bytes(), body].concat()
}

#[test]
fn method_headers_and_body_come_back_in_any_segmentation() {
    let example = Example::start("scgi");
    let request = request(
        &[("REQUEST_METHOD", "POST"), ("HTTP_X", "\u{e4}, b"), ("EMPTY", "")],
        b"\0\r\nbody,",
    );
    let answer = "Status: 200 OK\r\nContent-Type: text/plain\r\n\r\n\
        CONTENT_LENGTH: 8\nSCGI: 1\nREQUEST_METHOD: POST\nHTTP_X: \u{e4}, b\nEMPTY: \n\n\0\r\nbody,";
    for pieces in segmentations(&request) {
        for mut client in example.both() {
            client.send_pieces(&pieces);
            assert_eq!(String::from_utf8(client.rest()).unwrap(), answer);
        }
    }
}

#[test]
fn an_invalid_request_is_answered_and_closed() {
    let example = Example::start("scgi");
    let netstring = |header: &str| format!("{}:{header},", header.len());
    let headers = [
        "x24:",
        "70000:",
        &netstring(""),
        &netstring("CONTENT_LENGTH\x000\0"),
        &netstring("SCGI\x001\0CONTENT_LENGTH\x000\0"),
        &netstring("CONTENT_LENGTH\x000\0SCGI\x002\0"),
        &netstring("CONTENT_LENGTH\x000\0SCGI\x001\0ODD\0"),
        &netstring("CONTENT_LENGTH\x000\0SCGI\x001"),
        &netstring("CONTENT_LENGTH\0-1\0SCGI\x001\0"),
        &netstring("CONTENT_LENGTH\0\0SCGI\x001\0"),
        &netstring("CONTENT_LENGTH\0+2\0SCGI\x001\0"),
        &netstring("CONTENT_LENGTH\0 2\0SCGI\x001\0"),
        &netstring("CONTENT_LENGTH\x002 \0SCGI\x001\0"),
        &netstring("CONTENT_LENGTH\x000x2\0SCGI\x001\0"),
        &netstring("CONTENT_LENGTH\x002,2\0SCGI\x001\0"),
        &netstring("CONTENT_LENGTH\x002\0SCGI\x001\0CONTENT_LENGTH\x004\0"),
        &netstring("CONTENT_LENGTH\x002\0SCGI\x001\0CONTENT_LENGTH\x002\0"),
        &netstring("CONTENT_LENGTH\x002\0SCGI\x001\0SCGI\x002\0"),
        &netstring("CONTENT_LENGTH\x002\0SCGI\x001\0\0nameless\0"),
        &netstring("content_length\x002\0SCGI\x001\0"),
        // The netstring itself.
        "024:CONTENT_LENGTH\x002\0SCGI\x001\0,hi",
        "+24:CONTENT_LENGTH\x002\0SCGI\x001\0,hi",
        "24;CONTENT_LENGTH\x002\0SCGI\x001\0,hi",
        "24:CONTENT_LENGTH\x002\0SCGI\x001\0;hi",
        "23:CONTENT_LENGTH\x002\0SCGI\x001\0,hi",
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    ];
    for header in headers {
        for mut client in example.both() {
            client.send(header);
            // An end and no reset, although there is a lot that nobody reads.
            drop(client.try_send("x".repeat(100_000)));
            let answer = String::from_utf8(client.rest()).unwrap();
            assert!(answer.starts_with("Status: 400 Bad Request\r\n"), "{header:?}: {answer:?}");
        }
    }
    for length in ["67108865", "18446744073709551616", "99999999999999999999999"] {
        let mut client = example.tcp();
        client.send(netstring(&format!("CONTENT_LENGTH\0{length}\0SCGI\x001\0")));
        assert!(client.rest().starts_with(b"Status: 413 "), "{length}");
    }
}

#[test]
fn names_and_values_are_bytes_and_come_back_as_they_were() {
    let example = Example::start("scgi");
    // A header that came twice is two variables with older web servers.
    let variables =
        b"HTTP_USER_AGENT\0caf\xe9\0HTTP_\xff\0\xc3\x28\0EMPTY\0\0HTTP_X\x001\0HTTP_X\x002\0";
    let header = [&b"CONTENT_LENGTH\x002\0SCGI\x001\0"[..], variables].concat();
    for mut client in example.both() {
        client.send([format!("{}:", header.len()).as_bytes(), &header, b",hi"].concat());
        let rest = client.rest();
        let lines = b"SCGI: 1\nHTTP_USER_AGENT: caf\xe9\nHTTP_\xff: \xc3\x28\nEMPTY: \nHTTP_X: 1\nHTTP_X: 2\n\nhi";
        assert!(
            rest.starts_with(b"Status: 200 OK\r\n") && rest.ends_with(lines),
            "{}",
            rest.escape_ascii()
        );
    }
}

#[test]
fn a_web_server_that_keeps_us_waiting_is_told_or_closed_at_its_deadline() {
    let example = Example::start_with("scgi", &["--idle", "1"]);
    // Nothing, half of a header, half of a body.
    for (sent, answer) in [
        ("", "Status: 408 "),
        ("24:CONTENT", "Status: 408 "),
        ("24:CONTENT_LENGTH\x002\0SCGI\x001\0,h", ""),
    ] {
        let mut client = example.tcp();
        client.send(sent);
        let since = Instant::now();
        let rest = String::from_utf8(client.rest()).unwrap();
        assert!(
            rest.starts_with(answer) && rest.is_empty() == answer.is_empty(),
            "{sent:?}: {rest:?}"
        );
        assert!(
            (0.9..9.0).contains(&since.elapsed().as_secs_f32()),
            "{sent:?}: {:?}",
            since.elapsed()
        );
    }
}

#[test]
fn a_drain_answers_no_peer_that_has_not_asked() {
    let mut example = Example::start("scgi");
    let clients = example.both();
    example.terminate();
    for mut client in clients {
        assert_eq!(client.rest(), b"", "the web server asks another one then");
    }
    assert!(example.wait().success());
}

#[test]
fn one_address_has_so_many_connections_and_no_more() {
    let example = Example::start_with("scgi", &["--per-peer", "2"]);
    let mut clients = [(); 2].map(|()| example.tcp());
    assert_eq!(example.tcp().rest(), b"");
    for client in clients.iter_mut().chain([&mut example.unix()]) {
        client.send("24:CONTENT_LENGTH\x002\0SCGI\x001\0,hi");
        assert!(client.rest().starts_with(b"Status: 200 "));
    }
}

#[test]
fn a_body_that_is_cut_off_is_not_answered() {
    let example = Example::start("scgi");
    let request = request(&[], b"whole");
    for mut client in example.both() {
        client.send(&request[..request.len() - 1]);
        client.finish();
        assert_eq!(client.rest(), b"");
    }
}

#[test]
fn a_large_body_is_not_held_in_memory() {
    let example = Example::start("scgi");
    let body = Dice::new(7).bytes(1024 * 1024).repeat(50);
    let mut client = example.tcp();
    client.send(request(&[], &body));
    let answer = client.rest();
    assert!(answer.ends_with(&body));
    let status =
        fs::read_to_string(format!("/proc/{}/status", example.pid().as_raw_nonzero())).unwrap();
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix(" kB")).unwrap();
    assert!(peak.trim().parse::<u64>().unwrap() < 30_000, "{peak} KiB at the most");
}

/// nginx in front of the example, in one process and a folder of its own; killed when this is
/// dropped.
struct Nginx {
    child: Child,
    address: SocketAddr,
    dir: TempDir,
}

impl Nginx {
    fn start(nginx: &Path, upstream: &Path) -> Self {
        let dir = TempDir::new();
        // nginx takes no port 0, so this one may be taken by another in between.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let here = dir.join("");
        let temporary = ["client_body", "scgi", "proxy", "fastcgi", "uwsgi"];
        let temporary: String = temporary.map(|name| format!("{name}_temp_path {name};")).concat();
        let config = format!(
            "daemon off; master_process off; pid {0}pid; error_log {0}error.log; events {{}}
            http {{
                access_log off; client_max_body_size 100m; {temporary}
                server {{
                    listen {address};
                    location / {{
                        scgi_pass unix:{1};
                        scgi_param SCGI 1;
                        scgi_param REQUEST_METHOD $request_method;
                        scgi_param REQUEST_URI $request_uri;
                    }}
                }}
            }}",
            here.display(),
            upstream.display(),
        );
        fs::write(dir.join("nginx.conf"), config).unwrap();
        let mut command = Command::new(nginx);
        command
            .arg("-p")
            .arg(&here)
            .arg("-e")
            .arg(dir.join("error.log"))
            .arg("-c")
            .arg(dir.join("nginx.conf"));
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut nginx = Self { child, address, dir };
        until("nginx listens", || {
            let log = nginx.dir.join("error.log");
            assert!(nginx.child.try_wait().unwrap().is_none(), "{:?}", fs::read_to_string(log));
            Client::try_tcp(address).is_ok()
        });
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn behind_nginx() -> Option<(Example, Nginx)> {
    let nginx: PathBuf = program("nginx")?;
    let example = Example::start("scgi");
    let nginx = Nginx::start(&nginx, &example.unix);
    Some((example, nginx))
}

#[test]
fn nginx_hands_on_a_post_of_ten_megabytes_and_its_echo() {
    let Some((_example, nginx)) = behind_nginx() else { return };
    let body = Dice::new(5).bytes(1_000_000).repeat(10);
    let mut client = Client::tcp(nginx.address);
    // Of version 1.0, which knows no chunks.
    client.send(format!(
        "POST /up?x=1 HTTP/1.0\r\nX-Test: yes\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ));
    client.send(&body);
    let answer = client.rest();
    let start = String::from_utf8_lossy(&answer[..1000]).into_owned();
    assert!(start.starts_with("HTTP/1.1 200 OK\r\n"), "{start}");
    for line in [
        "REQUEST_METHOD: POST\n",
        "REQUEST_URI: /up?x=1\n",
        "HTTP_X_TEST: yes\n",
        "CONTENT_LENGTH: 10000000\n",
    ] {
        assert!(start.contains(line), "{line:?} in {start:?}");
    }
    assert!(answer.ends_with(&body));
}

#[test]
fn ab_gets_an_answer_to_each_of_20_000_requests_through_nginx() {
    let (Some(ab), Some((_example, nginx))) = (program("ab"), behind_nginx()) else { return };
    let url = format!("http://{}/x", nginx.address);
    let output = Command::new(ab).args(["-q", "-n", "20000", "-c", "32", &url]).output().unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    let number =
        |name: &str| report.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    assert!(output.status.success(), "{report}");
    assert_eq!(number("Complete requests:"), Some("20000"), "{report}");
    assert_eq!(number("Failed requests:"), Some("0"), "{report}");
    assert_eq!(number("Non-2xx responses:"), None, "{report}");
}

#[test]
fn wrk_gets_20_000_answers_through_nginx_and_no_error() {
    let (Some(wrk), Some((_example, nginx))) = (program("wrk"), behind_nginx()) else { return };
    // It knows a time and no number: as long as it takes.
    let mut answered = 0;
    while answered < 20_000 {
        let output = Command::new(&wrk)
            .args(["-t", "1", "-c", "32", "-d", "2s", &format!("http://{}/x", nginx.address)])
            .output()
            .unwrap();
        let report = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{report}");
        for bad in ["Socket errors", "Non-2xx or 3xx responses"] {
            assert!(!report.contains(bad), "{report}");
        }
        let requests = report.lines().find_map(|line| line.trim().split_once(" requests in "));
        let requests: u32 = requests.unwrap_or_else(|| panic!("{report}")).0.parse().unwrap();
        assert!(requests > 0, "{report}");
        answered += requests;
    }
}
