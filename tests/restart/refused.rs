//! Restarts that are refused, told twice, or interrupted.

use ropewalk::Server;
use ropewalk::server::{Restart, RestartError};
use tokio::io::AsyncWriteExt;

use super::takeover::{is_there, ran, script, shouting};
use crate::harness::{LONG, ask, expect, on_memory, shouter, until};
use crate::support::TempDir;

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
