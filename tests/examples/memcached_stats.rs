//! The memcached example: its limit, and its statistics.

use super::memcached::ask;
use crate::support::Example;

#[test]
fn one_connection_too_many_is_told_so() {
    let example = Example::start_with("memcached", &["--connections", "1"]);
    let mut first = example.tcp();
    ask(&mut first, &[("verbosity 1", "OK")]);
    assert_eq!(example.tcp().rest(), b"SERVER_ERROR too many connections\r\n");
    first.send("quit\r\nget a\r\n");
    assert_eq!(first.rest(), b"");
}

#[test]
fn stats_count_requests_and_stored_values() {
    let example = Example::start("memcached");
    let mut client = example.tcp();
    ask(
        &mut client,
        &[("set a 0 0 1\r\nx", "STORED"), ("get a", "VALUE a 0 1\r\nx\r\nEND"), ("get b", "END")],
    );
    client.send("stats\r\n");
    let lines: Vec<String> =
        (0..).map(|_| client.line()).take_while(|line| line != "END\r\n").collect();
    for stat in [
        "version 1.5.22",
        "cmd_get 2",
        "cmd_set 1",
        "get_hits 1",
        "get_misses 1",
        "curr_items 1",
        "limit_maxbytes 67108864",
    ] {
        assert!(lines.contains(&format!("STAT {stat}\r\n")), "{stat} in {lines:?}");
    }
    ask(
        &mut client,
        &[("stats reset", "RESET"), ("stats foo", "ERROR"), ("stats noreply", "ERROR")],
    );
    client.send("stats\r\n");
    let lines: Vec<String> =
        (0..).map(|_| client.line()).take_while(|line| line != "END\r\n").collect();
    for stat in ["cmd_get 0", "get_hits 0", "get_misses 0", "cmd_set 0", "curr_items 1"] {
        assert!(lines.contains(&format!("STAT {stat}\r\n")), "{stat} in {lines:?}");
    }
}

#[test]
fn the_statistics_that_tools_ask_for_are_there() {
    let example = Example::start("memcached");
    let mut client = example.tcp();
    // Without an item there is no class of items.
    ask(
        &mut client,
        &[("stats items", "END"), ("stats slabs", "END"), ("set a 0 0 1\r\nx", "STORED")],
    );
    for (list, stat) in [
        ("settings", "maxbytes 67108864"),
        ("settings", "item_size_max 1048576"),
        ("items", "items:1:number 1"),
        ("slabs", "1:used_chunks 1"),
    ] {
        client.send(format!("stats {list}\r\n"));
        let lines: Vec<String> =
            (0..).map(|_| client.line()).take_while(|line| line != "END\r\n").collect();
        assert!(lines.contains(&format!("STAT {stat}\r\n")), "{stat} in {lines:?}");
    }
}
