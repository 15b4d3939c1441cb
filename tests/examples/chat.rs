//! The chat example: what one says the others hear, and nobody can spoil it for them.

use crate::support::{Client, Example, until};

/// A guest that has joined, and the name it was given.
fn join(mut client: Client) -> (Client, String) {
    let line = client.line();
    let name =
        line.strip_prefix("* you are ").expect("a guest is told its name").trim_end().to_owned();
    (client, name)
}

#[test]
fn a_line_reaches_all_other_guests_on_either_endpoint() {
    let example = Example::start("chat");
    let (mut ann, a) = join(example.tcp());
    let (mut bob, b) = join(example.unix());
    let (mut eve, _) = join(example.tcp());
    for _ in 0..100 {
        ann.send("hello\r\n");
        bob.expect(format!("{a}: hello\n"));
        // Not `hello` again: nobody hears themselves.
        bob.send("hi\n");
        ann.expect(format!("{b}: hi\n"));
        eve.expect(format!("{a}: hello\n{b}: hi\n"));
    }
}

#[test]
fn a_guest_that_never_reads_is_dropped_while_the_others_go_on() {
    let example = Example::start("chat");
    let (mut ann, a) = join(example.tcp());
    let (mut bob, _) = join(example.unix());
    let deaf = example.both().map(join);
    let open = example.descriptors();
    let said = "x".repeat(500);
    until("both deaf guests are dropped", || {
        for _ in 0..50 {
            ann.send(format!("{said}\n"));
        }
        for _ in 0..50 {
            bob.expect(format!("{a}: {said}\n"));
        }
        example.descriptors() == open - 2
    });
    for (mut client, _) in deaf {
        assert!(client.ends());
    }
    ann.send("still here\n");
    bob.expect(format!("{a}: still here\n"));
}

#[test]
fn no_line_can_fake_another_or_disturb_the_others() {
    let example = Example::start("chat");
    let (mut ann, a) = join(example.tcp());
    let (mut bob, b) = join(example.unix());
    for (said, heard) in [
        ("\r\r\r\n", String::new()),
        ("\u{1b}[2J\u{7}clear\tit\0\n", "[2Jclearit".into()),
        ("lines\u{85}that\rend\r\n", "linesthatend".into()),
        ("smörgås 🧵\n", "smörgås 🧵".into()),
        (&format!("{}\n", "ö".repeat(8000)), "ö".repeat(500)),
        (&format!("{}\r\n", "x".repeat(16 * 1024)), "x".repeat(500)),
    ] {
        ann.send(said);
        bob.expect(format!("{a}: {heard}\n"));
    }
    bob.send("all well\n");
    ann.expect(format!("{b}: all well\n"));
}

#[test]
fn only_the_guest_that_sends_a_line_without_an_end_is_closed() {
    let example = Example::start("chat");
    let (mut ann, a) = join(example.tcp());
    let (mut bob, _) = join(example.unix());
    for client in example.both() {
        let (mut client, _) = join(client);
        drop(client.try_send(vec![b'x'; 100_000]));
        assert_eq!(client.rest(), b"");
    }
    ann.send("good riddance\n");
    bob.expect(format!("{a}: good riddance\n"));
}

#[test]
fn a_flood_ends_no_other_connection() {
    let example = Example::start("chat");
    let (mut ann, a) = join(example.tcp());
    let (mut bob, _) = join(example.unix());
    let (mut flood, f) = join(example.tcp());
    flood.send("x\n".repeat(20_000));
    flood.send("over\n");
    for client in [&mut ann, &mut bob] {
        while client.line() != format!("{f}: over\n") {}
    }
    ann.send("phew\n");
    bob.expect(format!("{a}: phew\n"));
}

#[test]
fn bytes_outside_utf_8_are_shown_lossily_and_telnet_commands_are_not() {
    let example = Example::start("chat");
    let (mut ann, a) = join(example.tcp());
    let (mut bob, _) = join(example.unix());
    for (said, heard) in [
        (&b"caf\xe9\n"[..], "caf\u{fffd}"),
        (b"\xe5\xe4\xf6 sm\xc3\xb6r\r\n", "\u{fffd}\u{fffd}\u{fffd} smör"),
        // Options at the start, one at length, an interrupt, and what a line ends within.
        (b"\xff\xfd\x03\xff\xfb\x18hi\r\n", "hi"),
        (b"\xff\xfa\x18\0xterm\xff\xf0there\n", "there"),
        (b"oops\xff\xf4\xff\xfd\x06\n", "oops"),
        (b"end\xff\xfa\x18\n", "end"),
        (b"end\xff\xfd\n", "end"),
        (b"end\xff\n", "end"),
        (b"\xff\xff is typed\xff\xff\n", "\u{fffd} is typed\u{fffd}"),
    ] {
        ann.send(said);
        bob.expect(format!("{a}: {heard}\n"));
    }
}
