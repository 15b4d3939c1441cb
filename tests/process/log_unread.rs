//! A log that can't be written, or is not read, stops no server.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed unwrap is a failed test; a helper talks by its output"
)]

use std::env;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write, pipe};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use ropewalk::server::Restart;
use ropewalk::{Addr, Bytes, Lines, LogLayer, Server, TlsConfig, framed, reply_fn};
use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::Builder;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::support::{self, Client, PATIENCE, TempDir, command, until};

/// The variable that tells a helper process the fault of its log, and its kind of runtime.
const HELPER: &str = "ROPEWALK_TEST_LOG";

/// The code of a server that found its handlers blocked.
const STUCK: i32 = 75;

/// A log that does this to every line.
#[derive(Clone, Copy)]
enum Fault {
    Panics,
    Blocks,
}

impl Subscriber for Fault {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        match self {
            Self::Panics => panic!("the log"),
            Self::Blocks => loop {
                std::thread::park();
            },
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Not a test by itself: the server of the tests below, in a process of its own. It listens on a
/// plain endpoint and on one for proxies that trusts nobody.
#[test]
fn helper() {
    let Ok(told) = env::var(HELPER) else { return };
    let told: Vec<&str> = told.split(' ').collect();
    let fault = if told[0] == "panics" { Fault::Panics } else { Fault::Blocks };
    tracing::subscriber::set_global_default(fault).unwrap();
    let mut runtime =
        if told[1] == "one" { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    let runtime = runtime.enable_all().build().unwrap();
    let answer = reply_fn(|line: Bytes| {
        assert!(line != "panic", "as told");
        line
    });
    let service = framed(Lines::lf(), answer);
    let folder = TempDir::new();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    // A restart that fails, as a rule: this process is to go on.
    let restart = if told.contains(&"restarts") {
        Restart::new()
    } else {
        Restart::new().program("/bin/false")
    };
    let server = Server::new()
        .listen("tcp:127.0.0.1:0")
        .listen("proxy+tcp:127.0.0.1:0?trust=192.0.2.0/24")
        .signals()
        .reload_tls(TlsConfig::files(cert, key))
        .hot_restart(restart)
        .drain_within(Duration::from_millis(200))
        .on_listening(|addresses| {
            let text: Vec<String> = addresses.iter().map(Addr::to_string).collect();
            println!("\nlistening {} {}", std::process::id(), text.join(" "));
        });
    if told[2] == "layer" {
        runtime
            .block_on(server.exit_if_stuck(STUCK).layer(LogLayer::new()).serve(service))
            .unwrap();
    } else {
        runtime.block_on(server.serve(service)).unwrap();
    }
}

struct Helper {
    child: Child,
    /// The numbers of the processes that have taken over.
    successors: Receiver<i32>,
    plain: SocketAddr,
    proxied: SocketAddr,
}

impl Helper {
    fn start(told: &str) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args(["--exact", &support::test(module_path!(), "helper"), "--nocapture"])
            .env(HELPER, told);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let said = lines
            .find_map(|line| line.strip_prefix("listening ").map(str::to_owned))
            .expect("it listens");
        let (tell, successors) = channel();
        // Its last lines need a reader.
        std::thread::spawn(move || {
            for line in lines {
                if let Some(said) = line.strip_prefix("listening ") {
                    tell.send(said.split(' ').next().unwrap().parse().unwrap()).ok();
                }
            }
        });
        let mut addrs = said
            .split(' ')
            .skip(1)
            .map(|addr| addr.rsplit("tcp:").next().unwrap().parse().unwrap());
        Self { plain: addrs.next().unwrap(), proxied: addrs.next().unwrap(), child, successors }
    }

    #[track_caller]
    fn serves(&self) {
        let mut client = Client::tcp(self.plain);
        client.send("hello\n");
        assert_eq!(client.line(), "hello\n");
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn code(&mut self) -> Option<i32> {
        until("the helper ends", || self.child.try_wait().unwrap().is_some());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        for pid in self.successors.try_iter().filter_map(Pid::from_raw) {
            kill_process(pid, Signal::KILL).ok();
        }
    }
}

/// Whatever makes the server itself write a line, it goes on, and ends when it is told to.
fn goes_on_and_ends_when_told(told: &str) {
    let mut helper = Helper::start(told);
    helper.serves();
    for _ in 0..30 {
        let mut untrusted = TcpStream::connect(helper.proxied).unwrap();
        untrusted.set_read_timeout(Some(PATIENCE)).unwrap();
        drop(untrusted.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 25\r\n"));
        // Closed, or reset.
        drop(untrusted.read(&mut [0]));
    }
    for _ in 0..30 {
        let mut panics = Client::tcp(helper.plain);
        panics.send("panic\n");
        panics.rest();
    }
    helper.serves();
    for signal in [Signal::HUP, Signal::USR2, Signal::HUP, Signal::USR2] {
        helper.signal(signal);
        helper.serves();
    }
    helper.signal(Signal::TERM);
    assert_eq!(helper.code(), Some(0), "{told}");
}

#[test]
fn a_server_whose_log_panics_goes_on_and_ends_when_it_is_told_to() {
    goes_on_and_ends_when_told("panics one -");
    goes_on_and_ends_when_told("panics many -");
}

#[test]
fn a_server_whose_log_panics_serves_connections_that_are_logged() {
    goes_on_and_ends_when_told("panics many layer");
}

#[test]
fn a_server_whose_log_blocks_goes_on_and_ends_when_it_is_told_to() {
    goes_on_and_ends_when_told("blocks one -");
    goes_on_and_ends_when_told("blocks many -");
}

#[test]
fn a_server_whose_log_blocks_is_restarted_without_a_connection_lost() {
    for told in ["blocks one - restarts", "blocks many - restarts", "panics many - restarts"] {
        let mut helper = Helper::start(told);
        let mut open = Client::tcp(helper.plain);
        open.send("before");
        helper.serves();
        helper.signal(Signal::USR2);
        let successor = helper.successors.recv_timeout(PATIENCE).expect("a new process listens");
        open.send(" and after\n");
        assert_eq!(open.line(), "before and after\n", "{told}");
        drop(open);
        assert_eq!(helper.code(), Some(0), "{told}");
        helper.serves();
        kill_process(Pid::from_raw(successor).unwrap(), Signal::TERM).unwrap();
        until("the new process ends as well", || TcpStream::connect(helper.plain).is_err());
    }
}

#[test]
fn a_process_whose_threads_are_all_blocked_by_the_log_is_exited_if_it_wants_to_be() {
    for told in ["blocks one layer", "blocks many layer"] {
        let mut helper = Helper::start(told);
        let clients: Vec<_> = (0..8).map(|_| TcpStream::connect(helper.plain).unwrap()).collect();
        let begun = Instant::now();
        helper.signal(Signal::TERM);
        assert_eq!(helper.code(), Some(STUCK), "{told}");
        assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
        drop(clients);
    }
}

/// An example whose log goes there, connection after connection, to its end by SIGTERM.
fn serves_with_its_log(to: impl Into<Stdio>, gone: impl FnOnce()) {
    let folder = TempDir::new();
    let socket = folder.join("x.sock");
    let mut command = command("capped_echo");
    command
        .args(["--log-level", "info", "--listen"])
        .arg(format!("unix:{}", socket.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let mut child = command.stderr(to).spawn().unwrap();
    // The command has the pipe as well.
    drop(command);
    until("it listens", || UnixStream::connect(&socket).is_ok());
    gone();
    // Enough lines to fill a pipe, which holds 64 KiB.
    for _ in 0..1000 {
        let mut client = UnixStream::connect(&socket).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    until("it ends", || child.try_wait().unwrap().is_some());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn an_example_goes_on_when_the_reader_of_its_log_has_gone() {
    let (reader, writer) = pipe().unwrap();
    serves_with_its_log(writer, move || drop(reader));
}

#[test]
fn an_example_goes_on_when_its_log_is_not_read() {
    let (_reader, writer) = pipe().unwrap();
    serves_with_its_log(writer, || {});
}

#[test]
fn an_example_goes_on_when_the_disk_of_its_log_is_full() {
    serves_with_its_log(File::options().write(true).open("/dev/full").unwrap(), || {});
}

#[test]
fn the_last_line_of_an_example_is_written_before_it_ends() {
    let (mut reader, writer) = pipe().unwrap();
    let reading = std::thread::spawn(move || {
        let mut log = String::new();
        reader.read_to_string(&mut log).unwrap();
        log
    });
    serves_with_its_log(writer, || {});
    let log = reading.join().unwrap();
    assert!(log.contains("received SIGTERM or SIGINT"), "{log}");
}
