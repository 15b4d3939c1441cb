//! The line_raw example: lines and raw bytes on one stream, in every segmentation.

use std::thread;

use crate::support::{Client, Dice, Example, segmentations};

/// Stores with line ends, commands and nothing inside, and what comes back.
const INPUT: &[u8] =
    b"PUT 5\r\na\r\nb\rGET\r\nPUT 0\r\nGET\r\nPUT 12\r\nGET\r\nPUT 3\r\nGET\r\nwhat?\r\nPUT 2\r\n\r\nGET\r\n";
const OUTPUT: &[u8] =
    b"OK 5\r\n5\r\na\r\nb\rOK 0\r\n0\r\nOK 12\r\n12\r\nGET\r\nPUT 3\r\nERROR neither PUT nor GET: what?\r\n\
    OK 2\r\n2\r\n\r\n";

fn check_output(client: &mut Client) {
    client.finish();
    assert_eq!(client.rest().escape_ascii().to_string(), OUTPUT.escape_ascii().to_string());
}

#[test]
fn a_stream_is_the_same_at_every_split() {
    let example = Example::start("line_raw");
    let mut other = example.tcp();
    for split in 0..=INPUT.len() {
        for mut client in example.both() {
            client.send(&INPUT[..split]);
            // A round trip beside it, by which time the server has most likely read the first part
            // by itself.
            other.ask("\r\n", "ERROR neither PUT nor GET: \r\n");
            client.send(&INPUT[split..]);
            check_output(&mut client);
        }
    }
}

#[test]
fn a_stream_is_the_same_in_any_segmentation() {
    let example = Example::start("line_raw");
    for pieces in segmentations(INPUT) {
        for mut client in example.both() {
            client.send_pieces(&pieces);
            check_output(&mut client);
        }
    }
}

#[test]
fn a_stored_value_is_found_by_all_on_either_endpoint() {
    let example = Example::start("line_raw");
    let [mut tcp, mut unix] = example.both();
    unix.ask("GET\r\n", "0\r\n");
    tcp.ask(b"PUT 3\r\n\0\xff\n", "OK 3\r\n");
    unix.ask("GET\r\n", b"3\r\n\0\xff\n");
    unix.ask("PUT 1\r\nx", "OK 1\r\n");
    tcp.ask("GET\r\n", "1\r\nx");
    example.tcp().ask("GET\r\n", "1\r\nx");
}

#[test]
fn a_bad_command_gets_an_error_line_and_the_next_one_its_answer() {
    let example = Example::start("line_raw");
    for mut client in example.both() {
        for bad in ["", "get", "GET 1", "\u{1b}[2J\u{fc}", "QUIT", " GET"] {
            client.send(format!("{bad}\r\n"));
            let answer = client.line();
            assert!(
                answer.starts_with("ERROR ") && answer.is_ascii() && !answer.contains('\u{1b}'),
                "{answer:?}"
            );
            client.ask("PUT 2\r\nok", "OK 2\r\n");
        }
    }
}

#[test]
fn data_behind_a_put_of_unknown_or_too_large_size_is_not_taken_for_commands() {
    let example = Example::start("line_raw");
    example.tcp().ask("PUT 4\r\nkept", "OK 4\r\n");
    for size in ["", "x", "-1", "1048577", "99999999999999999999999", "5 5"] {
        for mut client in example.both() {
            client.send(format!("PUT {size}\r\n"));
            // An end and no reset, although there is a lot that nobody reads.
            drop(client.try_send("PUT 1\r\nx".repeat(12_000)));
            assert_eq!(client.rest(), b"ERROR PUT takes 0 to 1048576 bytes\r\n", "PUT {size}");
        }
    }
    example.tcp().ask("GET\r\n", "4\r\nkept");
}

#[test]
fn a_put_that_is_cut_off_stores_nothing() {
    let example = Example::start("line_raw");
    for mut client in example.both() {
        client.ask("PUT 4\r\nkept", "OK 4\r\n");
        client.send("PUT 5\r\nlost");
        client.finish();
        assert_eq!(client.rest(), b"");
        example.unix().ask("GET\r\n", "4\r\nkept");
    }
}

#[test]
fn the_largest_value_comes_back_a_hundred_times_to_a_client_that_asks_ahead() {
    let example = Example::start("line_raw");
    let bytes = Dice::new(3).bytes(1024 * 1024);
    for mut client in example.both() {
        client.send("PUT 1048576\r\n");
        client.ask(&bytes, "OK 1048576\r\n");
        let mut sender = client.sender();
        thread::scope(|scope| {
            scope.spawn(|| sender.send("GET\r\n".repeat(100)));
            for _ in 0..100 {
                client.expect("1048576\r\n");
                client.expect(&bytes);
            }
        });
    }
}
