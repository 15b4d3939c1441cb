//! The example `metrics`: what Prometheus would read.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::{Client, Example, TempDir, program, skipped, until};

/// The values in Prometheus's text format.
fn scraped(example: &Example) -> String {
    let mut client = Client::unix(&example.dir.join("metrics"));
    client.send("GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let text = String::from_utf8(client.rest()).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    body.to_owned()
}

#[test]
fn the_counts_of_connections_are_served_beside_the_lines() {
    let mut example = metrics();
    let mut client = example.tcp();
    client.ask("hello\n", "hello\n");
    let (mut text, address) = (String::new(), example.tcp);
    let labels = format!("{{listener=\"tcp:{address}\",service=\"main\"}}");
    let frames = format!(
        "ropewalk_frames_total{{listener=\"tcp:{address}\",service=\"main\",direction=\"in\"}} 1\n"
    );
    // A scrape may come while the counts are passed on, which happens one after the other.
    let expected = [
        format!("ropewalk_connections_active{labels} 1\n"),
        format!("ropewalk_connections_accepted_total{labels} 1\n"),
        "# HELP ropewalk_connections_closed_total ".to_owned(),
        frames,
    ];
    until("the connection is in the metrics", || {
        text = scraped(&example);
        expected.iter().all(|line| text.contains(line))
    });
    promtool(&text);
    drop(client);
    example.terminate();
    assert!(example.wait().success());
}

/// The example, with a socket in its folder for the metrics.
fn metrics() -> Example {
    let (mut command, dir) = (crate::support::command("metrics"), TempDir::new());
    command.arg("--metrics").arg(format!("unix:{}", dir.join("metrics").display()));
    Example::spawn(command, dir)
}

/// What Prometheus's own checker says of it.
fn promtool(text: &str) {
    let Some(promtool) = program("promtool") else { return skipped("no promtool") };
    let mut child =
        Command::new(promtool).args(["check", "metrics"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{text}");
}
