//! The logfile example: no line that was received is lost, however the server ends.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use crate::support::{Client, Example, TempDir, acknowledged, command, run, until};

/// The example with a log that holds one line already.
fn start() -> (Example, PathBuf) {
    let dir = TempDir::new();
    let file = dir.join("log");
    fs::write(&file, "before\n").unwrap();
    let mut command = command("logfile");
    command.arg("--file").arg(&file);
    (Example::spawn(command, dir), file)
}

fn read(file: &PathBuf) -> String {
    fs::read_to_string(file).unwrap()
}

/// How many lines of each client are in the log. They must be its first ones, each once and in
/// order.
fn count(file: &PathBuf) -> HashMap<String, usize> {
    let text = read(file);
    let mut counts = HashMap::new();
    let lines = text.strip_prefix("before\n").expect("what was in the file is still there");
    assert!(lines.is_empty() || lines.ends_with('\n'), "the last line is whole");
    for line in lines.lines() {
        let (client, n) = line.split_once(' ').unwrap_or_else(|| panic!("{line:?} was not sent"));
        let count = counts.entry(client.to_owned()).or_default();
        assert_eq!(n.parse(), Ok(*count), "client {client}");
        *count += 1;
    }
    counts
}

/// Sends the client's lines from one number to another in one burst.
fn send(client: &mut Client, name: usize, from: usize, to: usize) {
    client.send((from..to).map(|n| format!("{name} {n}\r\n")).collect::<String>());
}

#[test]
fn the_lines_of_all_connections_on_both_endpoints_are_appended() {
    let (mut example, file) = start();
    thread::scope(|scope| {
        for (name, mut client) in (0..10).flat_map(|_| example.both()).enumerate() {
            scope.spawn(move || {
                for n in 0..100 {
                    client.send_pieces(&[
                        format!("{name} {n}").as_bytes(),
                        if n % 2 == 0 { b"\r\n" } else { b"\n" },
                    ]);
                }
                client.finish();
                assert_eq!(client.rest(), b"");
            });
        }
    });
    until("all are written", || count(&file).values().sum::<usize>() == 20 * 100);
    example.terminate();
    assert!(example.wait().success());
    assert_eq!(count(&file).values().sum::<usize>(), 20 * 100);
}

#[test]
fn a_line_can_be_read_in_the_file_while_its_connection_goes_on() {
    let (example, file) = start();
    for (name, client) in example.both().iter_mut().enumerate() {
        for n in 0..3 {
            send(client, name, n, n + 1);
            until("it is in the file", || count(&file).get(&name.to_string()) == Some(&(n + 1)));
        }
    }
}

#[test]
fn a_signal_loses_no_line_that_had_been_received() {
    const LINES: usize = 1500; // about as many as fit in the kernel
    for _ in 0..5 {
        let (example, file) = start();
        let mut clients: Vec<Client> = (0..4).flat_map(|_| example.both()).collect();
        for (name, client) in clients.iter_mut().enumerate() {
            send(client, name, 0, 1);
        }
        until("everyone's first line is written", || count(&file).len() == clients.len());
        example.terminate_before_it_reads(|| {
            for (name, client) in clients.iter_mut().enumerate() {
                send(client, name, 1, LINES);
            }
            acknowledged(&clients);
        });
        ends_with(example, &file, clients, LINES);
    }
}

#[test]
fn a_signal_loses_no_line_of_a_connection_that_was_just_made() {
    for _ in 0..5 {
        let (example, file) = start();
        let mut clients = Vec::new();
        example.terminate_before_it_reads(|| {
            clients.extend((0..20).flat_map(|_| example.both()));
            for (name, client) in clients.iter_mut().enumerate() {
                send(client, name, 0, 10);
            }
            acknowledged(&clients);
        });
        ends_with(example, &file, clients, 10);
    }
}

/// The example must end well, with that many lines of each client in the log.
fn ends_with(mut example: Example, file: &PathBuf, mut clients: Vec<Client>, lines: usize) {
    for client in &mut clients {
        assert_eq!(client.rest(), b"");
    }
    let all = (0..clients.len()).map(|name| (name.to_string(), lines)).collect();
    drop(clients);
    assert!(example.wait().success());
    assert_eq!(count(file), all);
}

#[test]
fn a_signal_amid_traffic_leaves_whole_lines_each_once() {
    let (mut example, file) = start();
    let clients: Vec<Client> = (0..3).flat_map(|_| example.both()).collect();
    thread::scope(|scope| {
        for (name, mut client) in clients.into_iter().enumerate() {
            scope.spawn(move || {
                // Until the server has hung up.
                (0..).find(|n| client.try_send(format!("{name} {n:0200}\n")).is_err());
            });
        }
        until("there is traffic of all", || matches!(count_so_far(&file), (1000.., 6)));
        example.terminate();
        assert!(example.wait().success());
    });
    assert_eq!(count(&file).len(), 6);
}

/// A guess at the lines in a file that is being written, and at how many clients they are from.
fn count_so_far(file: &PathBuf) -> (usize, usize) {
    let text = read(file);
    let names: HashSet<_> =
        text.lines().filter_map(|line| line.split_once(' ')).map(|(name, _)| name).collect();
    (text.lines().count(), names.len())
}

#[test]
fn the_file_is_opened_once() {
    let (mut example, file) = start();
    let mut clients = example.both();
    send(&mut clients[0], 0, 0, 1);
    until("it is in the file", || count(&file).len() == 1);
    let moved = example.dir.join("moved");
    fs::rename(&file, &moved).unwrap();
    send(&mut clients[1], 1, 0, 1);
    send(&mut example.tcp(), 2, 0, 1);
    until("they are in the same file", || count(&moved).len() == 3);
    drop(clients);
    example.terminate();
    assert!(example.wait().success());
    assert!(!file.exists());
}

#[test]
fn a_file_that_cannot_be_opened_is_said_before_anyone_is_accepted() {
    let mut command = command("logfile");
    command.args(["--listen", "tcp:127.0.0.1:0", "--file", "/no/such/directory/log"]);
    let (status, words) = run(command);
    assert!(!status.success());
    assert!(words.contains("No such file"), "{words}");
    assert!(!words.contains("listening"), "{words}");
}

#[test]
fn a_write_error_ends_the_server_and_is_said() {
    let mut example = Example::start_with("logfile", &["--file", "/dev/full"]);
    let mut client = example.tcp();
    client.send("a line\n");
    assert!(client.ends());
    assert!(!example.wait().success());
    let words = example.last_words();
    assert!(words.contains("No space left"), "{words}");
}

#[test]
fn a_last_line_without_an_end_is_kept_and_a_cr_behind_it_is_not() {
    let (example, file) = start();
    for (sent, kept) in [("0 0\n0 1", 2), ("0 2\r", 3), ("0 3\r\n", 4), ("", 4)] {
        for mut client in example.both().into_iter().take(1) {
            client.send(sent);
            client.finish();
            assert_eq!(client.rest(), b"");
        }
        until("it is in the file", || count(&file).get("0") == Some(&kept));
    }
}

#[test]
fn every_line_in_the_file_is_whole_when_the_disk_is_full() {
    let dir = TempDir::new();
    let file = dir.join("log");
    // A file that may not grow beyond a limit takes a part of a write, as a disk that is full does.
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "trap '' XFSZ; ulimit -f 32; exec \"$0\" \"$@\""])
        .arg(command("logfile").get_program());
    limited.arg("--file").arg(&file);
    let mut example = Example::spawn(limited, dir);
    let mut client = example.tcp();
    drop(client.try_send((0..2000).map(|n| format!("0 {n:099}\n")).collect::<String>()));
    assert!(!example.wait().success());
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.len() > 10_000 && text.len() < 40_000, "{}", text.len());
    assert!(
        text.ends_with('\n') && text.lines().all(|line| line.len() == 101),
        "the last line is whole"
    );
}
