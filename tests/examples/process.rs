//! The examples as processes: signals, bad command lines, and no descriptors left.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{Client, Example, TempDir, command, program, run, skipped, until};

#[test]
fn a_signal_ends_idle_connections_properly_and_the_process_with_success() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut example = Example::start("echo");
        let mut clients = example.both();
        for client in &mut clients {
            client.ask("x", "x");
        }
        example.signal(signal);
        for client in &mut clients {
            assert_eq!(client.rest(), b"");
        }
        drop(clients);
        assert!(example.wait().success());
        assert!(!example.unix.exists(), "the socket is removed");
        assert_eq!(example.last_words(), "");
    }
}

/// The line_raw example, told to end while two requests have begun.
fn drain_in_a_request() -> (Example, [Client; 2]) {
    let example = Example::start("line_raw");
    let mut clients = example.both();
    for client in &mut clients {
        // The answer says that the connection is served, and that what follows it in the same write
        // has arrived.
        client.ask("\r\nPUT 4\r\nab", "ERROR neither PUT nor GET: \r\n");
    }
    example.terminate();
    until("nobody is accepted any more", || Client::try_tcp(example.tcp).is_err());
    (example, clients)
}

#[test]
fn a_drain_waits_for_a_request_that_has_begun() {
    let (mut example, clients) = drain_in_a_request();
    for mut client in clients {
        assert!(!example.has_ended());
        client.send("cd");
        assert_eq!(client.rest(), b"OK 4\r\n");
    }
    assert!(example.wait().success());
}

#[test]
fn a_second_signal_stops_at_once() {
    let (mut example, mut clients) = drain_in_a_request();
    assert!(!example.has_ended());
    let told = Instant::now();
    example.terminate();
    for client in &mut clients {
        assert!(client.ends());
    }
    example.wait();
    assert!(told.elapsed() < Duration::from_secs(10), "the drain's 30 s are not waited for");
}

/// The example must end, with an error that contains these words.
fn refuses(args: &[&str], said: &[&str]) {
    let mut command = command("echo");
    command.args(args);
    let (status, words) = run(command);
    assert!(!status.success());
    for word in said {
        assert!(words.contains(word), "{word:?} is not in {words:?}");
    }
    assert!(!words.contains("listening"), "{words}");
}

#[test]
fn a_bad_endpoint_is_said_clearly() {
    refuses(&["--listen", "tcp:8007x"], &["tcp:8007x", "--listen"]);
    refuses(&["--listen", "udp:8007"], &["udp:8007", "tcp:"]);
    refuses(
        &["--listen", "unix:/no/such/directory/x.sock"],
        &["/no/such/directory/x.sock", "No such file"],
    );
}

#[test]
fn an_endpoint_that_is_taken_is_said_and_the_others_are_undone() {
    let echo = Example::start("echo");
    let dir = TempDir::new();
    let (tcp, unix) = (format!("tcp:{}", echo.tcp), format!("unix:{}", echo.unix.display()));
    let free = dir.join("free.sock");
    refuses(
        &["--listen", &format!("unix:{}", free.display()), "--listen", &tcp],
        &[&tcp, "in use"],
    );
    assert!(!free.exists());
    refuses(&["--listen", &unix], &[&unix, "live server"]);
    for mut client in echo.both() {
        client.ask("x", "x");
    }
}

#[test]
fn a_bad_width_is_said_clearly() {
    let mut command = command("int32_echo");
    command.args(["--width", "24"]);
    let (status, words) = run(command);
    assert!(!status.success());
    assert!(words.contains("24") && words.contains("8, 16, 32"), "{words}");
}

#[test]
fn with_few_descriptors_it_serves_some_at_a_time_and_all_in_the_end() {
    let mut limited = Command::new("prlimit");
    limited.arg("--nofile=40").arg(command("echo").get_program());
    let mut example = Example::spawn(limited, TempDir::new());
    let mut clients: Vec<Client> = (0..200).map(|_| example.tcp()).collect();
    for client in &mut clients {
        client.send("x");
    }
    // Each leaves as it is served, and makes room for the next.
    for mut client in clients {
        client.finish();
        assert_eq!(client.rest(), b"x");
    }
    assert!(!example.has_ended());
    example.tcp().ask("y", "y");
    example.unix().ask("y", "y");
}

#[test]
fn without_descriptors_it_goes_on_and_serves_again_when_there_are_some() {
    const LIMIT: usize = 30;
    let mut example = Example::start("echo");
    // Taken away only now: a limit known at the start would have been kept.
    let pid = example.pid().as_raw_nonzero().to_string();
    let status = Command::new("prlimit")
        .args(["--pid", &pid, &format!("--nofile={LIMIT}:")])
        .status()
        .unwrap();
    assert!(status.success());
    let mut clients: Vec<Client> = (0..200).map(|_| example.tcp()).collect();
    clients[0].ask("x", "x");
    until("all descriptors are in use", || example.descriptors() >= LIMIT);
    // Those that were taken are served meanwhile.
    for _ in 0..20 {
        clients[0].ask("x", "x");
    }
    assert!(!example.has_ended());
    drop(clients);
    for _ in 0..2 {
        for mut client in example.both() {
            client.ask("y", "y");
        }
    }
    until("all is given back", || example.descriptors() < LIMIT - 5);
    example.terminate();
    assert!(example.wait().success());
}

/// Neither hangs nor serves with fewer threads than requested, if any of them can't be started.
#[test]
fn a_server_whose_threads_can_not_be_started_ends_with_an_error() {
    let (Some(setpriv), Some(prlimit)) = (program("setpriv"), program("prlimit")) else { return };
    if !rustix::process::geteuid().is_root() {
        return skipped("the limit of threads does not bind other users' children");
    }
    // Where every user may execute it.
    let dir = TempDir::new();
    let binary = dir.join("echo");
    std::fs::copy(command("echo").get_program(), &binary).unwrap();
    let mut refused = 0;
    // The runtime has a thread, and main is one; with fewer it can't begin.
    for threads in 3..=9 {
        let mut command = Command::new(&setpriv);
        command
            .args(["--reuid=65531", "--clear-groups"])
            .arg(&prlimit)
            .arg(format!("--nproc={threads}"))
            .arg(&binary);
        command.env("TOKIO_WORKER_THREADS", "1").args([
            "--workers",
            "4",
            "--listen",
            "tcp:127.0.0.1:0",
        ]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let first = lines.next().expect("a line or an error").unwrap();
        if let Some(address) = first.strip_prefix("listening on tcp:") {
            Client::tcp(address.parse().unwrap()).ask("x", "x");
            child.kill().unwrap();
            child.wait().unwrap();
        } else {
            refused += 1;
            assert!(first.contains("worker") && first.contains("ulimit -u"), "{first}");
            assert!(!child.wait().unwrap().success());
        }
    }
    assert!((3..7).contains(&refused), "{refused} of 7 were refused");
}
