//! SIGUSR2, and what the service manager hears of it.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use ropewalk::Endpoint;
use rustix::process::Signal;

use crate::encrypted::{Ca, Folder, localhost};
use crate::generations::{Generations, free_port};
use crate::support::{self, PATIENCE, until};

/// How many descriptors the process has that serves.
fn descriptors(server: &Generations) -> usize {
    fs::read_dir(format!("/proc/{}/fd", server.pid().as_raw_nonzero())).unwrap().count()
}

/// The numbers of its children, those included that are dead and not waited for.
fn children(server: &Generations) -> String {
    let pid = server.pid().as_raw_nonzero();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    // A thread may end between the two looks, and has no children then.
    tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok()).collect()
}

/// What stands in for a service manager: it hears what it is told.
struct Manager(UnixDatagram);

impl Manager {
    fn new(path: &Path) -> Self {
        Self::of(UnixDatagram::bind(path).unwrap())
    }

    fn of(socket: UnixDatagram) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    /// The next message, in lines.
    fn hears(&self) -> Vec<String> {
        let mut buf = [0; 4096];
        let n = self.0.recv(&mut buf).expect("the service manager is told something");
        String::from_utf8(buf[..n].to_vec()).unwrap().lines().map(str::to_owned).collect()
    }
}

/// The activated example, with a service manager to tell.
fn notifying(name: &str) -> (Generations, Manager) {
    notifying_with(name, &[])
}

fn notifying_with(name: &str, args: &[&str]) -> (Generations, Manager) {
    let mut manager = None;
    let server = Generations::start(name, |command, dir| {
        let path = dir.join("notify");
        manager = Some(Manager::new(&path));
        command.env("NOTIFY_SOCKET", path).args(args);
    });
    (server, manager.unwrap())
}

#[test]
fn the_service_manager_hears_of_start_restart_and_stop() {
    let (mut server, manager) = notifying("activated");
    assert_eq!(manager.hears(), ["READY=1"]);
    server.restart();
    let reloading = manager.hears();
    assert_eq!(reloading[0], "RELOADING=1");
    assert!(reloading[1].starts_with("MONOTONIC_USEC="), "{reloading:?}");
    // The old one names the new main process, and the new one says that it accepts; they do not
    // wait for one another.
    let mut told = [manager.hears(), manager.hears()];
    told.sort();
    let main = format!("MAINPID={}", server.pid().as_raw_nonzero());
    assert_eq!(told, [vec![main, "READY=1".to_owned()], vec!["READY=1".to_owned()]]);
    assert_eq!(server.end(), Some(0));
    assert_eq!(manager.hears(), ["STOPPING=1"], "the old one has not said so of itself");
}

#[cfg(target_os = "linux")] // with abstract names
#[test]
fn a_service_manager_with_an_abstract_name_hears_as_well() {
    let name = format!("ropewalk-manager-{}", std::process::id());
    let addr =
        <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(
            &name,
        );
    let manager = Manager::of(UnixDatagram::bind_addr(&addr.unwrap()).unwrap());
    let mut server = Generations::start("activated", |command, _| {
        command.env("NOTIFY_SOCKET", format!("@{name}"));
    });
    assert_eq!(manager.hears(), ["READY=1"]);
    assert_eq!(server.end(), Some(0));
    assert_eq!(manager.hears(), ["STOPPING=1"]);
}

#[test]
fn the_service_manager_hears_of_a_reload_and_of_one_that_failed() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let endpoint = Endpoint::tcp(free_port()).tls(localhost(&ca, &folder)).to_string();
    let (mut server, manager) = notifying_with("activated", &["--listen", &endpoint]);
    assert_eq!(manager.hears(), ["READY=1"]);
    server.signal(Signal::HUP);
    assert_eq!(manager.hears()[0], "RELOADING=1");
    assert_eq!(manager.hears(), ["READY=1", "STATUS=reloaded"]);
    folder.write("key.pem", "no key");
    server.signal(Signal::HUP);
    let reloading = manager.hears();
    assert!(
        reloading[0] == "RELOADING=1" && reloading[1].starts_with("MONOTONIC_USEC="),
        "{reloading:?}"
    );
    let failed = manager.hears();
    assert_eq!(failed[0], "READY=1");
    assert!(
        failed[1].starts_with("STATUS=reload failed: ") && failed[1].contains("key.pem"),
        "{failed:?}"
    );
    assert_eq!(server.end(), Some(0));
}

/// By SIGHUP, also of a process that has taken over from another.
#[test]
fn a_signal_reloads_all_resources_or_none() {
    let folder = Folder::new();
    let files = ["one", "two"].map(|name| folder.write(name, "1"));
    let mut server = Generations::start("changing", |command, _| {
        command.args(files.iter().flat_map(|file| [OsStr::new("--reload"), file.as_os_str()]));
    });
    for is_new in [false, true] {
        let states = |server: &Generations| {
            let mut client = support::Client::tcp(server.tcp);
            client.send("states\n");
            client.line().trim_end().to_owned()
        };
        let becomes =
            |server: &Generations, wanted: &str| until(wanted, || states(server) == wanted);
        if is_new {
            server.restart();
        }
        folder.write("one", "2");
        folder.write("two", "bad");
        server.signal(Signal::HUP);
        // The first was read, and is not set, as the second was refused: neither now nor later.
        becomes(&server, "1=; 1=");
        server.signal(Signal::HUP);
        becomes(&server, "2=; 2=");
        folder.write("two", "3");
        server.signal(Signal::HUP);
        becomes(&server, "3=2; 3=3");
    }
    assert_eq!(server.end(), Some(0));
}

#[test]
fn the_service_manager_hears_of_a_restart_that_failed() {
    let (mut server, manager) = notifying("activated");
    assert_eq!(manager.hears(), ["READY=1"]);
    fs::remove_file(&server.link).unwrap();
    symlink("/bin/false", &server.link).unwrap();
    server.signal(Signal::USR2);
    assert_eq!(manager.hears()[0], "RELOADING=1");
    let failed = manager.hears();
    assert_eq!(failed[0], "READY=1");
    assert!(failed[1].starts_with("STATUS=restart failed: "), "{failed:?}");
    assert_eq!(server.end(), Some(0));
}

#[test]
fn neither_a_descriptor_nor_a_process_is_left_behind_by_a_restart_or_by_one_that_failed() {
    let (mut server, manager) = notifying("activated");
    assert_eq!(manager.hears(), ["READY=1"]);
    // Once it has had a child the runtime has what it needs to wait for them.
    server.restart();
    (0..3).for_each(|_| drop(manager.hears()));
    let fails = |server: &Generations| {
        server.signal(Signal::USR2);
        assert_eq!(manager.hears()[0], "RELOADING=1");
        assert!(manager.hears()[1].starts_with("STATUS=restart failed: "));
    };
    let example = fs::read_link(&server.link).unwrap();
    for _ in 0..3 {
        fs::remove_file(&server.link).unwrap();
        symlink("/bin/false", &server.link).unwrap();
        fails(&server);
        let before = descriptors(&server);
        (0..3).for_each(|_| fails(&server));
        // It may have told the manager before it closed what it told it by.
        until("what the restarts that failed have opened is closed", || {
            descriptors(&server) <= before
        });
        assert_eq!(children(&server), "", "nor a process nobody has waited for");
        fs::remove_file(&server.link).unwrap();
        symlink(&example, &server.link).unwrap();
        server.restart();
        (0..3).for_each(|_| drop(manager.hears()));
    }
    assert_eq!(server.end(), Some(0));
}

#[test]
fn the_watchdog_is_fed_by_the_process_that_serves() {
    let (mut server, manager) = {
        let mut manager = None;
        let server = Generations::start("activated", |command, dir| {
            let path = dir.join("notify");
            manager = Some(Manager::new(&path));
            command.env("NOTIFY_SOCKET", path).env("WATCHDOG_USEC", "20000");
        });
        (server, manager.unwrap())
    };
    let fed =
        |manager: &Manager| until("the watchdog is fed", || manager.hears() == ["WATCHDOG=1"]);
    (0..3).for_each(|_| fed(&manager));
    server.restart();
    // Only the new one is left to feed it. The last messages of the old one are read first.
    manager.0.set_nonblocking(true).unwrap();
    while manager.0.recv(&mut [0; 4096]).is_ok() {}
    manager.0.set_nonblocking(false).unwrap();
    (0..3).for_each(|_| fed(&manager));
    assert_eq!(server.end(), Some(0));
}

/// Its sockets are passed over the channel, and another's watchdog is not its own.
#[test]
fn variables_meant_for_the_old_process_alone_are_not_handed_on() {
    let mut server = Generations::start("activated", |command, _| {
        command.envs([
            ("LISTEN_PID", "1"),
            ("LISTEN_FDS", "1"),
            ("LISTEN_FDNAMES", "web"),
            ("LISTEN_PIDFDID", "1"),
        ]);
        command.envs([
            ("WATCHDOG_PID", "1"),
            ("WATCHDOG_USEC", "20000"),
            ("NOTIFY_SOCKET", "/nowhere"),
        ]);
    });
    server.restart();
    let environment = fs::read(format!("/proc/{}/environ", server.pid().as_raw_nonzero())).unwrap();
    let has = |name: &str| {
        environment.split(|&byte| byte == 0).any(|entry| entry.starts_with(name.as_bytes()))
    };
    assert!(has("ROPEWALK_RESTART=") && has("NOTIFY_SOCKET="));
    assert!(!has("LISTEN_") && !has("WATCHDOG_"), "{}", String::from_utf8_lossy(&environment));
    assert_eq!(server.end(), Some(0));
}

/// The link leads to another binary by then, and that is what takes over; the first process keeps
/// its own.
#[test]
fn the_new_program_is_the_one_the_path_leads_to_by_then() {
    let mut server = Generations::start("activated", |_, _| {});
    let mut client = support::Client::tcp(server.tcp);
    client.send("who?\n");
    assert!(client.line().starts_with("process "));
    drop(client);
    fs::remove_file(&server.link).unwrap();
    symlink(support::command("echo").get_program(), &server.link).unwrap();
    server.restart();
    support::Client::tcp(server.tcp).ask("who?\n", "who?\n");
    support::Client::unix(&server.unix).ask("who?\n", "who?\n");
    assert_eq!(server.end(), Some(0));
    assert!(!server.unix.exists());
}

#[test]
fn a_binary_replaced_in_place_is_started_by_its_path() {
    let mut server = Generations::start("activated", |_, _| {});
    let new = server.dir.join("new");
    // Copied by another process: one that is forked off this one while it writes could keep the
    // file open, and busy.
    let copied =
        Command::new("cp").arg(support::command("echo").get_program()).arg(&new).status().unwrap();
    assert!(copied.success());
    fs::rename(&new, &server.link).unwrap();
    server.restart();
    support::Client::tcp(server.tcp).ask("who?\n", "who?\n");
    // And once more, from what is a file of its own now.
    server.restart();
    support::Client::tcp(server.tcp).ask("who?\n", "who?\n");
    assert_eq!(server.end(), Some(0));
}

#[test]
fn an_abstract_name_is_handed_on_as_well() {
    let name = format!("ropewalk-restart-{}", std::process::id());
    let mut server = Generations::start("echo", |command, _| {
        command.args(["--listen", &format!("unix:@{name}")]);
    });
    let connect = || {
        let addr = <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(&name);
        std::os::unix::net::UnixStream::connect_addr(&addr.unwrap())
    };
    until("the name is bound", || connect().is_ok());
    server.restart();
    drop(connect().unwrap());
    assert_eq!(server.end(), Some(0));
    assert!(connect().is_err());
}

#[test]
fn a_drain_that_had_to_cut_connections_ends_in_an_exit_code_of_its_own() {
    let mut server = Generations::start("activated", |_, _| {});
    let mut client = std::net::TcpStream::connect(server.tcp).unwrap();
    client.set_write_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
    // Lines whose answers it does not read: at some point neither side takes any more.
    while client.write_all(&[b'\n'; 4096]).is_ok() {}
    server.signal(Signal::TERM);
    until("nobody listens", || support::Client::try_tcp(server.tcp).is_err());
    server.signal(Signal::TERM);
    assert_eq!(server.reap(server.pid()), Some(75));
}
