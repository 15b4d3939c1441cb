//! The examples that answer what they are sent, driven from outside as child processes.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::support::{Client, Dice, Example, segmentations, until};

const TOO_MANY: &str = "Too many connections, try later\r\n";

/// Sends `input` in every segmentation over both endpoints, half-closing right behind it as `nc -N`
/// does; each time exactly `output` and an end must come.
fn check(example: &Example, input: &[u8], output: &[u8]) {
    for pieces in segmentations(input) {
        for mut client in example.both() {
            client.send_pieces(&pieces);
            client.finish();
            assert_eq!(client.rest().escape_ascii().to_string(), output.escape_ascii().to_string());
        }
    }
}

#[test]
fn echo_gives_back_every_byte_in_any_segmentation() {
    let bytes = Dice::new(1).bytes(300);
    check(&Example::start("echo"), &bytes, &bytes);
}

#[test]
fn echo_gives_back_a_megabyte_while_it_is_still_sent() {
    let echo = Example::start("echo");
    let bytes = Dice::new(2).bytes(1024 * 1024);
    for mut client in echo.both() {
        let mut sender = client.sender();
        thread::scope(|scope| {
            scope.spawn(|| {
                sender.send(&bytes);
                sender.finish();
            });
            assert!(client.rest() == bytes);
        });
    }
}

#[test]
fn qotd_speaks_first_and_hangs_up() {
    let qotd = Example::start("qotd");
    for mut client in qotd.both() {
        assert_eq!(client.rest(), b"An apple a day keeps the doctor away\r\n");
    }
}

#[test]
fn qotd_sends_its_quote_also_to_a_peer_that_talks_first() {
    let qotd =
        Example::start_with("qotd", &["--quote", "Carpe diem,\r\nquam minimum credula postero"]);
    for mut client in qotd.both() {
        // Bytes that it may not read any more must not turn the end into a reset.
        drop(client.try_send(vec![b'x'; 100_000]));
        assert_eq!(client.rest(), b"Carpe diem,\r\nquam minimum credula postero\r\n");
    }
}

#[test]
fn answer_knows_one_question() {
    let answer = Example::start("answer");
    check(&answer, b"How are you?\r\n", b"Fine\r\n");
    check(
        &answer,
        b"how are you?\r\n\r\nHow are you?\r\nHow\nare\ryou?\r\n",
        b"I don't know what you mean\r\nI don't know what you mean\r\nFine\r\nI don't know what you mean\r\n",
    );
}

#[test]
fn answer_does_not_answer_half_a_line() {
    check(&Example::start("answer"), b"How are you?\r\nHow are you?", b"Fine\r\n");
}

#[test]
fn answer_closes_on_a_line_without_an_end_and_the_answers_before_it_arrive() {
    let answer = Example::start("answer");
    for mut client in answer.both() {
        client.send("How are you?\r\n");
        drop(client.try_send(vec![b'?'; 100_000]));
        assert_eq!(client.rest(), b"Fine\r\n");
    }
}

#[test]
fn netstring_echo_gives_back_netstrings_in_any_segmentation() {
    let input = b"5:hello,0:,3:,\r\n,12:5:nested,0:,,";
    check(&Example::start("netstring_echo"), input, input);
}

#[test]
fn netstring_echo_closes_on_an_invalid_netstring() {
    let example = Example::start("netstring_echo");
    for bad in ["x", "01:a,", "-1:a,", "1:ab", "65537:", "5:hell", "99999999999999999999999:"] {
        check(&example, format!("2:ok,{bad}").as_bytes(), b"2:ok,");
    }
    for mut client in example.both() {
        // Not only at the end of the stream, and although there is more to read.
        client.send("2:ok,x");
        drop(client.try_send(vec![b'x'; 100_000]));
        assert_eq!(client.rest(), b"2:ok,");
    }
}

#[test]
fn int32_echo_gives_back_frames_of_every_width() {
    let widths: [(&[&str], &[u8]); 4] = [
        (&[], b"\0\0\0\x05hello\0\0\0\0\0\0\0\x01\0"),
        (&["--width", "32"], b"\0\0\0\x05hello\0\0\0\0\0\0\0\x01\0"),
        (&["--width", "16"], b"\0\x05hello\0\0\0\x01\0"),
        (&["--width", "8"], b"\x05hello\0\x01\0"),
    ];
    for (args, input) in widths {
        check(&Example::start_with("int32_echo", args), input, input);
    }
}

#[test]
fn int32_echo_takes_the_longest_frame_and_closes_on_a_longer_one() {
    let example = Example::start("int32_echo");
    let longest = [&[0, 1, 0, 0][..], &vec![b'x'; 65_536]].concat();
    for mut client in example.both() {
        client.ask(&longest, &longest);
        client.send([0, 1, 0, 1]);
        assert_eq!(client.rest(), b"");
    }
    check(&example, b"\0\0\0\x02ok\xff\xff\xff\xff", b"\0\0\0\x02ok");
    check(&example, b"\0\0\0\x02ok\0\0\0\x02o", b"\0\0\0\x02ok");
}

#[test]
fn capped_echo_serves_a_hundred_and_tells_the_next_one() {
    let example = Example::start("capped_echo");
    let mut held: Vec<Client> = (0..50).flat_map(|_| example.both()).collect();
    for client in &mut held {
        client.ask("x", "x");
    }
    for mut client in example.both() {
        assert_eq!(client.rest(), TOO_MANY.as_bytes());
    }
    for client in &mut held {
        client.ask("y", "y");
    }
}

#[test]
fn capped_echo_refuses_peers_that_have_sent_a_lot_without_a_reset() {
    let example = Example::start_with("capped_echo", &["--max", "1"]);
    let mut held = example.tcp();
    held.ask("x", "x");
    for _ in 0..20 {
        for mut client in example.both() {
            drop(client.try_send(vec![b'x'; 100_000]));
            assert_eq!(client.rest(), TOO_MANY.as_bytes());
        }
    }
}

#[test]
fn capped_echo_serves_the_next_one_when_one_has_left() {
    let example = Example::start_with("capped_echo", &["--max", "2"]);
    let mut held = example.both();
    for client in &mut held {
        client.ask("x", "x");
    }
    let [tcp, mut unix] = held;
    drop(tcp);
    until("a place is free", || is_served(&mut example.unix()));
    unix.ask("y", "y");
}

/// Whether it is served; if not, it is told so properly.
fn is_served(client: &mut Client) -> bool {
    client.send("x");
    if client.read(1) == b"x" {
        return true;
    }
    assert_eq!(client.rest(), &TOO_MANY.as_bytes()[1..]);
    false
}

#[test]
fn capped_echo_never_serves_more_than_its_cap_in_a_storm() {
    const MAX: usize = 10;
    let example = Example::start_with("capped_echo", &["--max", "10"]);
    let (now, most, refused) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for i in 0..25 {
            let (example, now, most, refused) = (&example, &now, &most, &refused);
            scope.spawn(move || {
                for _ in 0..40 {
                    let mut client = if i % 2 == 0 { example.tcp() } else { example.unix() };
                    if !is_served(&mut client) {
                        refused.fetch_add(1, Ordering::SeqCst);
                        continue;
                    }
                    // Counted only while it is certainly served.
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    client.ask("again", "again");
                    // With more clients than places, some are refused if the first ones stay until
                    // then.
                    until("one is refused", || refused.load(Ordering::SeqCst) > 0);
                    now.fetch_sub(1, Ordering::SeqCst);
                }
            });
        }
    });
    let (most, refused) = (most.into_inner(), refused.into_inner());
    assert!(most <= MAX, "{most} at once");
    assert!(refused < 1000, "all were refused");
    // Nothing of the storm is left behind: all places are free again.
    let mut held = Vec::new();
    until("all places are free", || {
        held = (0..MAX).map(|_| example.tcp()).collect::<Vec<_>>();
        held.iter_mut().all(is_served)
    });
    assert!(!is_served(&mut example.tcp()));
}

#[test]
fn shared_counter_counts_every_line_of_every_connection_on_either_endpoint_once() {
    let example = Example::start("shared_counter");
    let all = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for mut client in (0..10).flat_map(|_| example.both()) {
            let all = &all;
            scope.spawn(move || {
                client.send("line\n\r\n".repeat(25));
                client.finish();
                let totals = String::from_utf8(client.rest()).unwrap();
                let totals: Vec<u32> = totals.lines().map(|line| line.parse().unwrap()).collect();
                assert_eq!(totals.len(), 50);
                assert!(totals.is_sorted(), "a total that went back: {totals:?}");
                all.lock().unwrap().extend(totals);
            });
        }
    });
    let mut all = all.into_inner().unwrap();
    all.sort_unstable();
    assert!(all.into_iter().eq(1..=1000));
}
