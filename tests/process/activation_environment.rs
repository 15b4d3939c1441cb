//! What a child of an activated server sees: nothing of the variables by which its sockets were
//! passed.

use std::env;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use ropewalk::server::Serve;
use ropewalk::{Bytes, Endpoint, RawBytes, Server, framed, reply_fn};

use crate::support::{self, Client, program};

/// Set where this program runs as the server; its address is behind it.
const HELPER: &str = "ROPEWALK_ACTIVATED_TEST";

/// Runs what follows with standard input as descriptors 3 and 4, as a service manager would pass
/// them.
const PASS: &str =
    "export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=web:admin; exec \"$@\" 3<&0 4<&0 </dev/null";

/// This program, to run one of its tests as the server.
fn this_program(command: &mut Command) -> &mut Command {
    let test = support::test(module_path!(), "an_activated_server");
    command.arg(env::current_exe().unwrap()).args(["--exact", &test, "--nocapture"])
}

/// The names a child of this process sees.
fn seen_by_a_child() -> Vec<String> {
    let output = Command::new("env").output().unwrap();
    assert!(output.status.success());
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    output
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name.to_owned())
        .collect()
}

fn passed(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).filter(|name| name.starts_with("LISTEN_")).collect()
}

fn echo(endpoint: Endpoint) -> Serve {
    Server::new().listen(endpoint).serve(framed(RawBytes, reply_fn(|bytes: Bytes| bytes)))
}

/// Not a test of its own: what the others start.
#[test]
fn an_activated_server() {
    if env::var_os(HELPER).is_none() {
        return;
    }
    assert_eq!(passed(&seen_by_a_child()).len(), 3, "as long as nothing is bound they are there");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let _first = echo(Endpoint::systemd("web")).bind().await.unwrap();
        let seen = seen_by_a_child();
        assert_eq!(passed(&seen), [""; 0]);
        assert!(seen.iter().any(|name| name == HELPER), "everything else is there: {seen:?}");
        assert_eq!(
            env::vars_os()
                .filter(|(name, _)| name.to_string_lossy().starts_with("LISTEN_"))
                .count(),
            0
        );
        // The passed sockets are known by now, and found without the variables.
        let _second = echo(Endpoint::systemd("admin")).bind().await.unwrap();
        assert!(
            echo(Endpoint::systemd("admin"))
                .bind()
                .await
                .unwrap_err()
                .to_string()
                .contains("bound before")
        );
    });
    println!("children see nothing");
}

#[track_caller]
fn sees_nothing(output: &std::process::Output) {
    let words = String::from_utf8_lossy(&output.stdout);
    assert!(
        words.contains("children see nothing"),
        "{words}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_child_does_not_see_the_passed_sockets_and_a_later_bind_finds_them() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = Command::new("bash");
    command.args(["-c", PASS, "bash"]).env(HELPER, "1").stdin(OwnedFd::from(listener));
    sees_nothing(&this_program(&mut command).output().unwrap());
}

#[test]
fn a_child_of_a_program_that_systemd_socket_activate_starts_does_not_either() {
    let Some(activate) = program("systemd-socket-activate") else { return };
    // Nobody else is on that address, so the ports stay free.
    let port = || TcpListener::bind("127.0.0.3:0").unwrap().local_addr().unwrap();
    let (web, admin) = (port(), port());
    let mut command = Command::new(activate);
    command.args([
        "-l",
        &web.to_string(),
        "-l",
        &admin.to_string(),
        "--fdname=web:admin",
        "-E",
        HELPER,
    ]);
    command.env(HELPER, "1").stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = this_program(&mut command).spawn().unwrap();
    support::until("somebody listens", || Client::try_tcp(web).is_ok());
    sees_nothing(&child.wait_with_output().unwrap());
}
