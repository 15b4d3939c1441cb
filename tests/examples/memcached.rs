//! The memcached example, driven from outside: what the protocol's text says, and what it leaves to
//! the server.

use std::fs;
use std::thread;

use crate::support::{Client, Example, segmentations};

/// The largest value.
const MAX: usize = 1024 * 1024;
/// Of memcached: to clients a version of 0 means that there is no version.
const VERSION: &str = "VERSION 1.5.22\r\n";

#[track_caller]
pub(super) fn ask(client: &mut Client, pairs: &[(&str, &str)]) {
    for (request, answer) in pairs {
        client.send(format!("{request}\r\n"));
        let got = client.read(answer.len() + 2);
        assert_eq!(String::from_utf8_lossy(&got), format!("{answer}\r\n"), "to {request:?}");
    }
    // And nothing else has been said.
    client.ask("version\r\n", VERSION);
}

#[test]
fn every_command_is_answered_in_any_segmentation() {
    let example = Example::start("memcached");
    let input =
        b"set a 7 0 4\r\n1\r\n2\r\nadd a 0 0 1\r\nx\r\nappend a 1 1 1\r\n!\r\nprepend a 1 1 1\r\n?\r\nget a\r\n\
        replace b 0 0 0\r\n\r\nadd b 0 0 0 noreply\r\n\r\nget a b c a\r\nset n 0 0 2\r\n41\r\nincr n 1\r\ndecr n 50\r\n\
        touch n 0\r\ngat 0 n\r\ndelete n\r\ndelete n\r\nset x 0 0 3\r\nGET x\r\nflush_all\r\nget a b\r\nwhat\r\n";
    let output = b"STORED\r\nNOT_STORED\r\nSTORED\r\nSTORED\r\nVALUE a 7 6\r\n?1\r\n2!\r\nEND\r\nNOT_STORED\r\n\
        VALUE a 7 6\r\n?1\r\n2!\r\nVALUE b 0 0\r\n\r\nVALUE a 7 6\r\n?1\r\n2!\r\nEND\r\nSTORED\r\n42\r\n0\r\n\
        TOUCHED\r\nVALUE n 0 1\r\n0\r\nEND\r\nDELETED\r\nNOT_FOUND\r\nCLIENT_ERROR bad data chunk\r\nERROR\r\nOK\r\n\
        END\r\nERROR\r\n";
    for pieces in segmentations(input) {
        for mut client in example.both() {
            client.send_pieces(&pieces);
            client.finish();
            assert_eq!(client.rest().escape_ascii().to_string(), output.escape_ascii().to_string());
        }
    }
}

#[test]
fn an_invalid_command_has_an_error_and_the_connection_goes_on() {
    let example = Example::start("memcached");
    let format = "CLIENT_ERROR bad command line format";
    for mut client in example.both() {
        for unknown in [
            "",
            "   ",
            "GET a",
            "get",
            "gets ",
            "gat 0",
            "set",
            "set a 0 0",
            "incr a",
            "delete",
            "quit now",
        ] {
            ask(&mut client, &[(unknown, "ERROR")]);
        }
        for wrong in [
            "set a x 0 1\r\nx",
            "set a 0 0 -1",
            "cas a 0 0 x 1",
            "delete a b c",
            "delete a 5",
            "delete a 0 x",
            "verbosity x",
            "get a\u{7f}b",
            "get a\t",
            "get a\r",
        ] {
            ask(&mut client, &[(wrong, format)]);
        }
        ask(
            &mut client,
            &[
                ("touch a x", "CLIENT_ERROR invalid exptime argument"),
                ("incr a -1", "CLIENT_ERROR invalid numeric delta argument"),
                ("set a 0 0 1\r\nx", "STORED"),
                ("delete a 0\r\nset a 0 0 1\r\nx", "DELETED\r\nSTORED"), // as old clients have it
                ("incr a 1", "CLIENT_ERROR cannot increment or decrement non-numeric value"),
                ("  get   a  ", "VALUE a 0 1\r\nx\r\nEND"),
            ],
        );
        client.ask("get a\n", "VALUE a 0 1\r\nx\r\nEND\r\n"); // as people type it
    }
}

#[test]
fn a_key_has_at_most_250_bytes_and_no_control_characters_and_its_data_is_not_taken_for_commands() {
    let example = Example::start("memcached");
    let (longest, longer) = ("k".repeat(250), "k".repeat(251));
    for mut client in example.both() {
        ask(
            &mut client,
            &[("set kept 0 0 1\r\nx", "STORED"), (&format!("set {longest} 0 0 1\r\ny"), "STORED")],
        );
        ask(
            &mut client,
            &[(&format!("get {longest}"), &format!("VALUE {longest} 0 1\r\ny\r\nEND"))],
        );
        for key in [&longer, "a\tb", "a\0", "\u{1b}[2J"] {
            let injected = format!("set {key} 0 0 13\r\ndelete kept\r\n");
            ask(&mut client, &[(&injected, "CLIENT_ERROR bad command line format")]);
            ask(
                &mut client,
                &[(&format!("get kept {key}"), "CLIENT_ERROR bad command line format")],
            );
        }
        ask(&mut client, &[("get kept", "VALUE kept 0 1\r\nx\r\nEND")]);
    }
}

#[test]
fn a_value_of_a_mebibyte_is_stored_and_a_larger_one_is_read_over_and_takes_the_old_one_with_it() {
    let example = Example::start("memcached");
    let value = "v".repeat(MAX);
    for mut client in example.both() {
        ask(&mut client, &[(&format!("set a 0 0 {MAX}\r\n{value}"), "STORED")]);
        ask(&mut client, &[("get a", &format!("VALUE a 0 {MAX}\r\n{value}\r\nEND"))]);
        ask(&mut client, &[("append a 0 0 1\r\n!", "SERVER_ERROR object too large for cache")]);
        // The answer does not wait for the data.
        client.ask(
            format!("set a 0 0 {}\r\n", MAX + 1),
            "SERVER_ERROR object too large for cache\r\n",
        );
        ask(&mut client, &[(&format!("{value}!\r\nget a"), "END")]);
        client.ask("set a 0 0 2147483645\r\n", "SERVER_ERROR object too large for cache\r\n");
        client.send("get a\r\n".repeat(1000));
        client.finish();
        assert_eq!(client.rest(), b"", "all of it is the value's");
    }
}

#[test]
fn a_length_that_no_value_can_have_makes_the_line_wrong_and_the_next_one_is_read() {
    let example = Example::start("memcached");
    for mut client in example.both() {
        for length in [
            "-1",
            "2147483646",
            "2147483648",
            "4294967295",
            "18446744073709551615",
            "99999999999999999999",
        ] {
            ask(
                &mut client,
                &[(&format!("set a 0 0 {length}"), "CLIENT_ERROR bad command line format")],
            );
            client.send(format!("set a 0 0 {length} noreply\r\n"));
        }
        ask(&mut client, &[("get a", "END")]);
    }
}

#[test]
fn only_a_get_may_be_longer_than_2_kib_and_a_longer_command_ends_the_connection() {
    let example = Example::start("memcached");
    for mut client in example.both() {
        for verb in ["get", "gets", "gat 0", "gats 0", "   get"] {
            ask(&mut client, &[(&format!("{verb} {}", "k ".repeat(100_000)), "END")]);
        }
        // With its CR.
        ask(&mut client, &[(&format!("frob {}", "k".repeat(2042)), "ERROR")]);
    }
    let evil = "x\r\nset evil 0 0 1\r\nx\r\n";
    let key = "k".repeat(2048);
    for too_long in [
        key.clone() + "k", // and its end has yet to come
        format!("set {key} 0 0 23\r\n{evil}"),
        format!("delete {key}\r\n{evil}"),
        format!("{}\r\n{evil}", " ".repeat(3000)),
        format!("get {}\r\n{evil}", "k ".repeat(200_000)),
    ] {
        for mut client in example.both() {
            client.send(&too_long);
            assert_eq!(client.rest(), b"CLIENT_ERROR line too long\r\n");
        }
    }
    example.tcp().ask("get evil\r\n", "END\r\n");
}

#[test]
fn clients_of_other_protocols_are_told_so_and_closed_before_anything_is_obeyed() {
    let example = Example::start("memcached");
    let behind = b"\r\nset evil 0 0 1\r\nx\r\n";
    let version = [&b"\x80\x0b"[..], &[0; 22]].concat();
    let http = "CLIENT_ERROR this is memcached\r\n";
    let binary = "CLIENT_ERROR only the text protocol is served here\r\n";
    for (begin, answer) in [
        (&b"GET / HTTP/1.1"[..], http),
        (b"POST /a%20b?c=d HTTP/1.0", http),
        (b"DELETE HTTP/1.1", http),
        (b"PRI * HTTP/2.0", http),
        (b"GET /a path with more than eight words of it HTTP/1.1", http),
        (&version, binary),
        (b"\x80", binary),
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", binary),
    ] {
        for mut client in example.both() {
            client.send([begin, behind].concat());
            assert_eq!(
                String::from_utf8(client.rest()).unwrap(),
                answer,
                "{}",
                begin.escape_ascii()
            );
        }
    }
    // These are keys.
    ask(&mut example.tcp(), &[("get evil HTTP/1.1", "END"), ("delete HTTP/1.1", "NOT_FOUND")]);
}

#[test]
fn commands_of_newer_versions_are_unknown_and_their_data_are_not_taken_for_commands() {
    let example = Example::start("memcached");
    for mut client in example.both() {
        for meta in [
            "mg a v",
            "md a",
            "ma a",
            "me a",
            "mn",
            "ms",
            "ms a x",
            "ms a 13 T0\r\nflush_all\r\nxx",
        ] {
            ask(&mut client, &[(meta, "ERROR")]);
        }
    }
}

#[test]
fn noreply_is_no_answer_and_the_command_is_carried_out() {
    let example = Example::start("memcached");
    for mut client in example.both() {
        client.send(
            "flush_all noreply\r\nverbosity 1 noreply\r\nset n 0 0 1 noreply\r\n1\r\nadd n 0 0 1 noreply\r\n2\r\n",
        );
        client.send("incr n 5 noreply\r\ndecr n 2 noreply\r\nappend n 0 0 1 noreply\r\n0\r\ntouch n 0 noreply\r\n");
        client.send("set big 0 0 2000000 noreply\r\n");
        client.send("x".repeat(2_000_000));
        client.send(
            "\r\nset d 0 0 1 noreply\r\nx\r\ndelete d noreply\r\nset e 0 0 1 noreply\r\nwrong\r\n",
        );
        // Nor when it is refused.
        client.send("set e x 0 1 noreply\r\nx\r\nincr none 1 noreply\r\nincr n x noreply\r\ntouch n x noreply\r\n");
        client.send(format!(
            "set {} 0 0 1 noreply\r\nx\r\nflush_all 10 noreply\r\n",
            "k".repeat(251)
        ));
        // The rest of the data that were too long.
        client.ask("", "ERROR\r\n");
        ask(&mut client, &[("get n d e", "VALUE n 0 2\r\n40\r\nEND")]);
    }
}

#[test]
fn cas_stores_only_if_the_value_has_not_changed_meanwhile() {
    let example = Example::start("memcached");
    let [mut one, mut other] = example.both();
    ask(&mut one, &[("cas a 0 0 1 1\r\nx", "NOT_FOUND"), ("set a 0 0 1\r\nx", "STORED")]);
    one.send("gets a\r\n");
    let line = one.line();
    let cas = line.trim_end().rsplit(' ').next().unwrap();
    one.expect("x\r\nEND\r\n");
    ask(&mut other, &[(&format!("cas a 0 0 1 {cas}\r\ny"), "STORED")]);
    ask(
        &mut one,
        &[(&format!("cas a 0 0 1 {cas}\r\nz"), "EXISTS"), ("get a", "VALUE a 0 1\r\ny\r\nEND")],
    );
}

#[test]
fn numbers_wrap_at_the_top_and_stop_at_0() {
    let example = Example::start("memcached");
    ask(
        &mut example.tcp(),
        &[
            ("incr n 1", "NOT_FOUND"),
            ("set n 3 0 20\r\n18446744073709551615", "STORED"),
            ("incr n 2", "1"),
            ("decr n 9", "0"),
            ("incr n 18446744073709551615", "18446744073709551615"),
            ("incr n 18446744073709551616", "CLIENT_ERROR invalid numeric delta argument"),
            ("get n", "VALUE n 3 20\r\n18446744073709551615\r\nEND"),
        ],
    );
}

#[test]
fn when_memory_is_full_the_least_recently_used_value_is_removed() {
    let example = Example::start_with("memcached", &["--memory", "1"]);
    let mut client = example.tcp();
    let value = "v".repeat(100_000);
    for i in 0..10 {
        ask(&mut client, &[(&format!("set {i} 0 0 100000\r\n{value}"), "STORED")]);
    }
    // Now 1 is the oldest.
    ask(
        &mut client,
        &[("touch 0 0", "TOUCHED"), (&format!("set new 0 0 100000\r\n{value}"), "STORED")],
    );
    ask(
        &mut client,
        &[
            ("get 1", "END"),
            ("touch 0 0", "TOUCHED"),
            ("touch 2 0", "TOUCHED"),
            ("touch new 0", "TOUCHED"),
        ],
    );
    let largest = "v".repeat(MAX);
    ask(
        &mut client,
        &[(&format!("set 2 0 0 {MAX}\r\n{largest}"), "SERVER_ERROR out of memory storing object")],
    );
    ask(&mut client, &[("get 2", "END"), ("touch 3 0", "TOUCHED")]);
}

#[test]
fn a_get_of_far_more_than_the_cache_holds_is_answered_as_it_is_read() {
    let example = Example::start("memcached");
    let mut client = example.tcp();
    let value = "v".repeat(MAX);
    ask(&mut client, &[(&format!("set a 0 0 {MAX}\r\n{value}"), "STORED")]);
    client.send(format!("get{}\r\n", " a".repeat(200)));
    for _ in 0..200 {
        client.expect(format!("VALUE a 0 {MAX}\r\n"));
        client.expect(&value);
        client.expect("\r\n");
    }
    client.expect("END\r\n");
    let status =
        fs::read_to_string(format!("/proc/{}/status", example.pid().as_raw_nonzero())).unwrap();
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix(" kB")).unwrap();
    assert!(peak.trim().parse::<u64>().unwrap() < 60_000, "{peak} KiB at the most");
}

#[test]
fn it_counts_right_for_many_at_once_on_one_thread_and_on_several() {
    for threads in ["1", "4"] {
        let example = Example::start_with("memcached", &["--workers", threads]);
        example.tcp().ask("set n 0 0 1\r\n0\r\n", "STORED\r\n");
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut client = example.tcp();
                    client.send("incr n 1\r\n".repeat(500));
                    (0..500).for_each(|_| drop(client.line()));
                });
            }
        });
        example.tcp().ask("get n\r\n", "VALUE n 0 4\r\n4000\r\nEND\r\n");
    }
}
