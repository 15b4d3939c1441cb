//! Inherited sockets: those of a service manager, those known by their number, and what is refused.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{self, Client, TempDir, program, run, until};

/// Runs what follows with standard input as descriptor 3, as a service manager would pass it.
const PASS: &str =
    "export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=web; exec \"$@\" 3<&0 </dev/null";

/// A process that is killed with this value.
struct Process(Child);

impl Process {
    fn start(mut command: Command) -> Self {
        Self(command.spawn().unwrap())
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    fn end(mut self) -> ExitStatus {
        kill_process(self.pid(), Signal::TERM).unwrap();
        until("the process ends", || self.0.try_wait().unwrap().is_some());
        self.0.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The example, by a shell that does this first, with this as its standard input.
fn by_shell(script: &str, input: impl Into<Stdio>, endpoints: &[&str]) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", script, "bash"]).arg(support::command("activated").get_program());
    command.args(endpoints.iter().flat_map(|endpoint| ["--listen", endpoint]));
    command.stdin(input);
    command
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// A client is answered by this very process.
fn answers(mut client: Client, process: &Process) {
    client.send("who?\n");
    assert!(client.line().starts_with(&format!("process {},", process.pid().as_raw_nonzero())));
}

#[test]
fn a_passed_socket_is_found_by_its_name_its_place_and_its_number() {
    for endpoint in ["systemd:web", "systemd:0", "fd:3"] {
        let (listener, addr) = listener();
        // It came before the server, and waits for it.
        let early = Client::tcp(addr);
        let socket = File::from(OwnedFd::from(listener));
        let link = format!("socket:[{}]", socket.metadata().unwrap().ino());
        let process = Process::start(by_shell(PASS, socket, &[endpoint]));
        answers(early, &process);
        answers(Client::tcp(addr), &process);
        let descriptors =
            fs::read_dir(format!("/proc/{}/fd", process.pid().as_raw_nonzero())).unwrap().flatten();
        let is_it = |path: &Path| fs::read_link(path).is_ok_and(|to| to == Path::new(&link));
        let open = descriptors.filter(|descriptor| is_it(&descriptor.path())).count();
        assert_eq!(open, 1, "{endpoint}: another would keep the socket open in a drain");
        assert!(process.end().success());
        assert!(Client::try_tcp(addr).is_err());
    }
}

#[test]
fn a_passed_descriptor_is_closed_on_exec_whether_it_is_served_or_not() {
    let (listener, addr) = listener();
    let script = "export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=web:other; exec \"$@\" 3<&0 4<&0 </dev/null";
    let process = Process::start(by_shell(script, OwnedFd::from(listener), &["systemd:web"]));
    answers(Client::tcp(addr), &process);
    let process = format!("/proc/{}", process.pid().as_raw_nonzero());
    let mut sockets = 0;
    for descriptor in fs::read_dir(format!("{process}/fd")).unwrap().flatten() {
        // The shell leaves files of its own.
        if fs::read_link(descriptor.path())
            .is_ok_and(|link| link.to_string_lossy().starts_with("socket:"))
        {
            let number = descriptor.file_name().into_string().unwrap();
            let info = fs::read_to_string(format!("{process}/fdinfo/{number}")).unwrap();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
            let flags = i32::from_str_radix(flags, 8).unwrap();
            assert!(flags & libc::O_CLOEXEC != 0, "descriptor {number} would be inherited");
            sockets += 1;
        }
    }
    assert!(sockets >= 2, "{sockets}");
}

#[test]
fn the_path_of_an_inherited_socket_is_left_to_its_maker() {
    let dir = TempDir::new();
    let path = dir.join("x.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let process = Process::start(by_shell(PASS, OwnedFd::from(listener), &["systemd:web"]));
    answers(Client::unix(&path), &process);
    assert!(process.end().success());
    assert!(path.exists());
}

#[test]
fn an_inherited_socket_is_handed_on_in_a_restart() {
    let (listener, addr) = listener();
    let mut command = by_shell(PASS, OwnedFd::from(listener), &["systemd:web"]);
    // No manager listens there, and the socket is passed on all the same.
    command.env("NOTIFY_SOCKET", "@ropewalk-nobody");
    let mut process = Process::start(command);
    answers(Client::tcp(addr), &process);
    kill_process(process.pid(), Signal::USR2).unwrap();
    until("the old process has ended", || process.0.try_wait().unwrap().is_some());
    let mut client = Client::tcp(addr);
    client.send("who?\n");
    let line = client.line();
    let number = line.strip_prefix("process ").and_then(|rest| rest.split(',').next()).unwrap();
    let new = Pid::from_raw(number.parse().unwrap()).unwrap();
    assert_ne!(new, process.pid());
    let environment = fs::read(format!("/proc/{number}/environ")).unwrap();
    let has = |name: &str| {
        environment.split(|&byte| byte == 0).any(|entry| entry.starts_with(name.as_bytes()))
    };
    assert!(has("ROPEWALK_RESTART=") && has("NOTIFY_SOCKET=") && !has("LISTEN_"));
    kill_process(new, Signal::TERM).unwrap();
    assert_eq!(client.rest(), b"");
    until("nobody listens", || Client::try_tcp(addr).is_err());
}

/// The example must end with an error that says this.
#[track_caller]
fn refuses(command: Command, said: &str) {
    let (status, words) = run(command);
    assert!(!status.success());
    assert!(words.contains(said), "{said:?} is not in {words:?}");
}

#[test]
fn sockets_not_passed_to_this_process_are_not_taken() {
    let socket = || OwnedFd::from(listener().0);
    let none = "no socket was passed to this process";
    for (script, said) in [
        ("exec \"$@\" 3<&0", none),
        ("LISTEN_FDS=1 exec \"$@\" 3<&0", "LISTEN_FDS is set and LISTEN_PID is not"),
        (
            "LISTEN_PID=1 LISTEN_FDS=1 exec \"$@\" 3<&0",
            "LISTEN_PID names process 1, and this is process ",
        ),
        (
            "LISTEN_PID=1 LISTEN_FDS=1 LISTEN_FDNAMES=web exec \"$@\" 3<&0",
            "LISTEN_PID names process 1, and",
        ),
        (
            "LISTEN_PID=x LISTEN_FDS=1 LISTEN_FDNAMES=web exec \"$@\" 3<&0",
            "LISTEN_PID is \"x\", which is not a process",
        ),
        ("LISTEN_FDS=1 LISTEN_FDNAMES=web exec \"$@\" 3<&0", "LISTEN_PID is not"),
        (
            "export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=web; \"$@\" 3<&0; false",
            "have it start this one by exec",
        ),
        ("LISTEN_PID=$$ exec \"$@\" 3<&0", none),
        ("LISTEN_PID=$$ LISTEN_FDS=0 exec \"$@\" 3<&0", none),
        (
            "LISTEN_PID=$$ LISTEN_FDS=999 exec \"$@\" 3<&0",
            "LISTEN_FDS or LISTEN_FDNAMES is invalid",
        ),
        (
            "LISTEN_PID=$$ LISTEN_FDS=4294967295 exec \"$@\" 3<&0",
            "LISTEN_FDS or LISTEN_FDNAMES is invalid",
        ),
        (
            "LISTEN_PID=$$ LISTEN_FDS=many exec \"$@\" 3<&0",
            "LISTEN_FDS or LISTEN_FDNAMES is invalid",
        ),
        (
            "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=a:b exec \"$@\" 3<&0",
            "LISTEN_FDS or LISTEN_FDNAMES is invalid",
        ),
        ("LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=mail exec \"$@\" 3<&0", "only mail"),
        (
            "LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=web:web exec \"$@\" 3<&0 4<&0",
            "several sockets have that name",
        ),
    ] {
        refuses(by_shell(script, socket(), &["systemd:web"]), said);
    }
    refuses(by_shell(PASS, socket(), &["systemd:1"]), "systemd:0 to systemd:0");
    refuses(by_shell(PASS, socket(), &["systemd:web", "fd:3"]), "bound before");
    refuses(by_shell("exec \"$@\"", Stdio::null(), &["fd:999"]), "descriptor 999 is not open");
    // The runtime has opened something there.
    refuses(by_shell("exec \"$@\" 3<&-", Stdio::null(), &["fd:3"]), "has opened it itself");
}

#[test]
fn a_descriptor_that_is_no_listening_stream_socket_is_refused_and_named() {
    let (listener, addr) = listener();
    let file = || OwnedFd::from(File::open("/dev/null").unwrap());
    let connection = std::net::TcpStream::connect(addr).unwrap();
    let bound = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let packets =
        socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::SEQPACKET, None).unwrap();
    let table: [(OwnedFd, &str); 5] = [
        (file(), "it is not a socket"),
        (UdpSocket::bind("127.0.0.1:0").unwrap().into(), "it is a datagram socket"),
        (packets.into(), "it is a socket of packets"),
        (connection.into(), "it does not listen"),
        (bound.into(), "it does not listen"),
    ];
    for (socket, said) in table {
        refuses(by_shell(PASS, socket.try_clone().unwrap(), &["systemd:web"]), said);
        refuses(by_shell(PASS, socket, &["fd:3"]), said);
    }
    drop(listener);
}

#[test]
fn systemd_socket_activate_starts_it_with_the_first_connection() {
    let Some(activate) = program("systemd-socket-activate") else { return };
    let dir = TempDir::new();
    let path = dir.join("x.sock");
    // Nobody else is on that address, so the port stays free.
    let addr = TcpListener::bind("127.0.0.2:0").unwrap().local_addr().unwrap();
    let mut command = Command::new(activate);
    command.args(["-l".as_ref(), OsStr::new(&addr.to_string()), "-l".as_ref(), path.as_os_str()]);
    command.arg("--fdname=web:local").arg(support::command("activated").get_program());
    command.args(["--listen", "systemd:web", "--listen", "systemd:local"]).stderr(Stdio::null());
    let process = Process::start(command);
    until("the socket is there", || path.exists() && Client::try_tcp(addr).is_ok());
    answers(Client::tcp(addr), &process);
    answers(Client::unix(&path), &process);
    assert!(process.end().success());
}

/// A line sent by a stock client, and the answer.
fn asked(client: &Path, args: &[&str]) -> String {
    let mut child = Command::new(client)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"hello\n").unwrap();
    drop(child.stdin.take());
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

#[test]
fn socat_and_ncat_reach_paths_and_abstract_names() {
    let dir = TempDir::new();
    let path = dir.join("x.sock");
    let path = path.to_str().unwrap();
    let name = format!("ropewalk-test-{}", std::process::id());
    let mut command = support::command("echo");
    command.args([
        "--listen",
        &format!("unix:{path}?mode=600"),
        "--listen",
        &format!("unix:@{name}"),
    ]);
    let process = Process::start(command);
    until("the socket is there", || fs::exists(path).unwrap());
    if let Some(socat) = program("socat") {
        assert_eq!(asked(&socat, &["-t5", "-", &format!("UNIX-CONNECT:{path}")]), "hello\n");
        assert_eq!(asked(&socat, &["-t5", "-", &format!("ABSTRACT-CONNECT:{name}")]), "hello\n");
    }
    if let Some(ncat) = program("ncat") {
        assert_eq!(asked(&ncat, &["-U", path]), "hello\n");
    }
    assert!(process.end().success());
    assert!(!fs::exists(path).unwrap());
}
