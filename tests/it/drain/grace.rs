//! A server that is told to drain goes on accepting for a while, if it was told to.

use std::time::Duration;

use ropewalk::{CloseReason, Server};
use tokio::time::{Instant, sleep};

use crate::harness::{ask, assert_cut, assert_reasons, on_memory, rest, settle, shouter};

const GRACE: Duration = Duration::from_secs(5);

fn server() -> Server {
    Server::new().readiness_grace(GRACE)
}

#[tokio::test(start_paused = true)]
async fn until_the_grace_is_over_all_are_served_as_before() {
    let (server, connector) = on_memory(server(), shouter()).await;
    let mut before = connector.connect().await.unwrap();
    ask(&mut before, "a\n", "A\n").await;
    let start = Instant::now();
    server.handle().drain(GRACE * 10);
    assert!(server.handle().is_draining(), "a readiness check sees it at once");
    sleep(GRACE - Duration::from_millis(1)).await;
    let mut meanwhile = connector.connect().await.unwrap();
    ask(&mut meanwhile, "b\n", "B\n").await;
    ask(&mut before, "c\n", "C\n").await;
    assert_eq!(
        (rest(&mut before).await, rest(&mut meanwhile).await),
        (String::new(), String::new())
    );
    assert_eq!(start.elapsed(), GRACE);
    assert!(connector.connect().await.is_err(), "now it is closed");
    drop((before, meanwhile));
    assert_reasons(&server.over().await, &[(CloseReason::Drained, 2)]);
}

#[tokio::test(start_paused = true)]
async fn the_grace_is_a_part_of_the_drains_time() {
    let (server, connector) = on_memory(server(), shouter()).await;
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "a\n", "A\n").await;
    let start = Instant::now();
    server.handle().drain(GRACE / 2);
    // No time is left to finish in.
    assert_cut(&mut client).await;
    drop(client);
    assert_reasons(&server.over().await, &[(CloseReason::Aborted, 1)]);
    assert_eq!(start.elapsed(), GRACE / 2);
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_no_grace_and_ends_one() {
    for drains_before in [false, true] {
        let (server, connector) = on_memory(server(), shouter()).await;
        let mut client = connector.connect().await.unwrap();
        ask(&mut client, "a\n", "A\n").await;
        let start = Instant::now();
        if drains_before {
            server.handle().drain(GRACE * 10);
            settle().await;
        }
        server.handle().stop();
        assert_cut(&mut client).await;
        drop(client);
        assert_reasons(&server.over().await, &[(CloseReason::Aborted, 1)]);
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
