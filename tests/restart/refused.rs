//! Restarts that are refused, told twice, or interrupted.

use std::fs;
use std::io::Write;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Output, Stdio};
use std::time::Duration;

use ropewalk::Server;
use ropewalk::server::{EndpointState, Restart, RestartError};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::takeover::{is_there, ran, script, shouting};
use crate::harness::{LONG, ask, expect, on_memory, shouter, until};
use crate::support::{self, TempDir};

#[tokio::test]
async fn restarts_at_once_are_one() {
    let dir = TempDir::new();
    let program = script(&dir, "late", "sleep 0.2\nexit 1");
    let (server, _path) = shouting(&dir, |_| program).await;
    let restarts = (0..10).map(|_| {
        let handle = server.handle().clone();
        tokio::spawn(async move { handle.restart().await })
    });
    for restart in restarts.collect::<Vec<_>>() {
        assert!(matches!(restart.await.unwrap(), Err(RestartError::Exited { .. })));
    }
    assert_eq!(ran(&dir).len(), 1);
    server.end().await;
}

#[tokio::test]
async fn a_server_told_to_end_in_the_middle_of_a_restart_ends_and_the_new_process_with_it() {
    let dir = TempDir::new();
    let program = script(&dir, "slow", "exec sleep 1000");
    let (server, path) = shouting(&dir, |_| program.ready_within(LONG)).await;
    let handle = server.handle().clone();
    let restart = tokio::spawn(async move { handle.restart().await });
    until("the new process runs", || ran(&dir).len() == 1).await;
    server.end().await;
    assert!(matches!(restart.await.unwrap(), Err(RestartError::NotServing)));
    assert!(!path.exists());
    let pid = ran(&dir)[0];
    until("the new process is gone", || !is_there(pid)).await;
}

#[tokio::test]
async fn a_server_that_can_not_be_restarted_says_why() {
    let (server, mut client) = {
        let (server, connector) = on_memory(Server::new(), shouter()).await;
        (server, connector.connect().await.unwrap())
    };
    assert!(matches!(server.handle().restart().await, Err(RestartError::NotEnabled)));
    ask(&mut client, "a\n", "A\n").await;
    drop(client);
    let handle = server.handle().clone();
    server.end().await;
    assert!(matches!(handle.restart().await, Err(RestartError::NotServing)));

    let (server, connector) = on_memory(Server::new().hot_restart(Restart::new()), shouter()).await;
    let error = server.handle().restart().await.unwrap_err();
    assert!(
        matches!(&error, RestartError::Endpoint { endpoint } if endpoint == "memory:"),
        "{error}"
    );
    let mut client = connector.connect().await.unwrap();
    client.write_all(b"a\n").await.unwrap();
    expect(&mut client, "A\n").await;
    drop(client);
    server.end().await;

    let dir = TempDir::new();
    let missing = dir.join("missing");
    let (server, _path) = shouting(&dir, |_| Restart::new().program(&missing)).await;
    let error = server.handle().restart().await.unwrap_err();
    assert!(
        matches!(&error, RestartError::Start { program, .. } if *program == missing),
        "{error}"
    );
    server.end().await;
}

/// Starts a program as an old process would that speaks this version of the protocol and sends
/// these bytes.
fn started_by_another(version: u32, bytes: &[u8]) -> Output {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut command = support::command("echo");
    command
        .args(["--listen", "tcp:127.0.0.1:0"])
        .env("ROPEWALK_RESTART", format!("{version} {}", std::process::id()))
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    // It holds the other end of the channel.
    drop(command);
    // One that ends at once does not read them.
    ours.write_all(bytes).ok();
    ours.shutdown(Shutdown::Write).ok();
    child.wait_with_output().unwrap()
}

#[test]
fn a_new_process_whose_old_one_speaks_another_version_or_nonsense_ends_and_says_why() {
    // An endpoint without texts, and a socket that never comes.
    let mut announced = vec![0; 4 * 2 + 1 + 2 + 16];
    announced.splice(0..0, 27_u32.to_be_bytes());
    let not_utf8 = [&[0, 0, 0, 4, 0, 2][..], &[0xff; 2]].concat();
    for (version, bytes, said) in [
        (2, &b"anything"[..], "version 2 of the restart protocol"),
        (9, &[][..], "version 9 of the restart protocol"),
        (3, &[0xff; 8][..], "not a list of sockets"),
        (3, &[0, 0, 0, 3, 0, 9, b'x'][..], "not a list of sockets"),
        (3, &not_utf8[..], "not a list of sockets"),
        (3, &[0, 0, 0, 9, 1][..], "eof"),
        (3, &[][..], "end of file"),
        (3, &announced[..], "end of file"),
    ] {
        let output = started_by_another(version, bytes);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{version}, {bytes:?}: it serves");
        assert!(text.contains(said), "{version}, {bytes:?}: {text}");
    }
}

#[tokio::test]
async fn changes_that_are_asked_for_during_a_restart_are_made_when_it_has_failed() {
    let dir = TempDir::new();
    let go = dir.join("go");
    let waits = format!("while [ ! -e {} ]; do sleep 0.01; done\nexit 1", go.display());
    let program = script(&dir, "waits", &waits);
    let (server, path) = shouting(&dir, |_| program).await;
    let handle = server.handle().clone();
    let restart = tokio::spawn(async move { handle.restart().await });
    until("the new process runs", || ran(&dir).len() == 1).await;
    let handle = server.handle();
    let mut adding = Box::pin(handle.add_endpoint("main", "tcp:127.0.0.1:0"));
    let mut removing = Box::pin(handle.remove_endpoint(1));
    let early = async { tokio::join!(&mut adding, &mut removing) };
    assert!(timeout(Duration::from_millis(200), early).await.is_err(), "they wait");
    assert_eq!(handle.endpoints()[1].state(), EndpointState::Open);
    fs::write(go, "").unwrap();
    assert!(matches!(restart.await.unwrap(), Err(RestartError::Exited { .. })));
    let number = adding.await.unwrap();
    removing.await.unwrap();
    assert!(!path.exists());
    let ropewalk::Addr::Tcp(added) = *handle.endpoints()[number].address() else {
        unreachable!("it is TCP")
    };
    ask(&mut TcpStream::connect(added).await.unwrap(), "a\n", "A\n").await;
    server.end().await;
}

#[tokio::test]
async fn changes_that_are_asked_for_during_a_restart_fail_when_a_new_process_has_taken_over() {
    let dir = TempDir::new();
    let go = dir.join("go");
    let text = format!(
        "printf 'ropewalk-restart 3' >&0\nwhile [ ! -e {} ]; do sleep 0.01; done\nprintf 'RTTA' >&0\nexec sleep 1000",
        go.display()
    );
    let program = script(&dir, "takes_over", &text);
    let (server, path) = shouting(&dir, |_| program).await;
    let handle = server.handle().clone();
    let restart = tokio::spawn(async move { handle.restart().await });
    until("the new process runs", || ran(&dir).len() == 1).await;
    let handle = server.handle().clone();
    let mut adding = Box::pin(handle.add_endpoint("main", "tcp:127.0.0.1:0"));
    let mut removing = Box::pin(handle.remove_endpoint(1));
    let early = async { tokio::join!(&mut adding, &mut removing) };
    assert!(timeout(Duration::from_millis(200), early).await.is_err(), "they wait");
    fs::write(go, "").unwrap();
    restart.await.unwrap().unwrap();
    assert!(adding.await.unwrap_err().to_string().contains("does not accept"));
    assert!(removing.await.unwrap_err().to_string().contains("does not accept"));
    server.over().await;
    assert!(path.exists(), "it is the new process's to remove");
    let new = rustix::process::Pid::from_raw(ran(&dir)[0]).unwrap();
    rustix::process::kill_process(new, rustix::process::Signal::KILL).unwrap();
}
