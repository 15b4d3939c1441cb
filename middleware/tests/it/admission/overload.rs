//! Connections that are refused while the process has too much to do.

use std::io;
use std::task::Waker;
use std::time::Duration;

use ropewalk_middleware::connection::MemoryBudget;
use ropewalk_middleware::{CloseReason, Connection, ConnectionInfo, OverloadLayer};
use tokio::io::{AsyncReadExt, DuplexStream};
use tokio::task::JoinHandle;
use tokio::time::{advance, sleep};
use tower::{Layer, Service, service_fn};

use crate::common::{Hold, connection, settle};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

type Served = (ConnectionInfo, DuplexStream, JoinHandle<io::Result<()>>);

fn budget() -> MemoryBudget {
    MemoryBudget::new(1000, Waker::noop().clone())
}

async fn serve(layer: &OverloadLayer, (ours, theirs): (Connection, DuplexStream)) -> Served {
    let info = ours.info();
    let task = tokio::spawn(layer.layer(Hold::default()).call(ours));
    settle().await;
    (info, theirs, task)
}

/// Whether one more connection is served now.
async fn serves(layer: &OverloadLayer, budget: &MemoryBudget) -> bool {
    let (ours, theirs) = connection();
    match serve(layer, (ours.with_budget(budget), theirs)).await.0.closing().reason() {
        None => true,
        Some(CloseReason::Overload) => false,
        Some(other) => panic!("{other}"),
    }
}

/// Lets the runtime be late by so much at the next look.
async fn lag(time: Duration) {
    // Up to the look, which is due every 100 ms.
    advance(100 * MS + time).await;
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn from_80_percent_of_the_memory_on_connections_are_refused_until_it_is_below_70() {
    let (layer, budget) = (OverloadLayer::new(), budget());
    let large = connection().0.with_budget(&budget);
    for (bytes, serves_more) in [
        (0, true),
        (799, true),
        (800, false),
        (700, false),
        (699, true),
        (799, true),
        (1000, false),
    ] {
        large.set_buffered(bytes);
        assert_eq!(serves(&layer, &budget).await, serves_more, "{bytes}");
        assert_eq!(layer.clone().is_overloaded(), !serves_more);
    }
    assert_eq!((layer.refused(), layer.shortages(), layer.stalls()), (3, 2, 0));
    drop(large);
    assert!(serves(&layer, &budget).await);
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_budget_has_no_mark_of_memory_and_the_mark_can_be_turned_off() {
    let budget = budget();
    let large = connection().0.with_budget(&budget);
    large.set_buffered(1000);
    assert_eq!(serve(&OverloadLayer::new(), connection()).await.0.closing().reason(), None);
    assert!(serves(&OverloadLayer::new().without_memory(), &budget).await);
    assert!(serves(&OverloadLayer::new().memory(101, 100), &budget).await);
    assert!(!serves(&OverloadLayer::new().memory(100, 100), &budget).await);
    assert!(!serves(&OverloadLayer::new().without_lag(), &budget).await);
}

#[tokio::test(start_paused = true)]
async fn from_a_lag_of_500_ms_on_connections_are_refused_until_it_was_below_100_for_a_second() {
    let (layer, budget) = (OverloadLayer::new(), budget());
    let _open = serve(&layer, connection()).await;
    lag(490 * MS).await;
    assert!(serves(&layer, &budget).await);
    assert!(layer.current_lag() >= 400 * MS, "{:?}", layer.current_lag());
    lag(510 * MS).await;
    assert!(!serves(&layer, &budget).await);
    assert_eq!(
        (layer.stalls(), layer.shortages(), layer.refused(), layer.is_overloaded()),
        (1, 0, 1, true)
    );
    // Nine calm looks, and one that is not.
    for _ in 0..9 {
        lag(Duration::ZERO).await;
    }
    lag(110 * MS).await;
    assert!(!serves(&layer, &budget).await);
    for _ in 0..9 {
        lag(Duration::ZERO).await;
    }
    assert!(!serves(&layer, &budget).await);
    lag(2 * MS).await;
    lag(2 * MS).await;
    assert!(serves(&layer, &budget).await);
    assert_eq!((layer.stalls(), layer.is_overloaded()), (1, false));
}

#[tokio::test(start_paused = true)]
async fn a_late_runtime_stays_overloaded_when_its_last_connection_ends() {
    let (layer, budget) = (OverloadLayer::new(), budget());
    let (_, theirs, task) = serve(&layer, connection()).await;
    lag(SECOND).await;
    drop(theirs);
    task.await.unwrap().unwrap();
    for _ in 0..5 {
        lag(Duration::ZERO).await;
        assert!(!serves(&layer, &budget).await);
    }
    sleep(2 * SECOND).await;
    assert!(serves(&layer, &budget).await);
}

#[tokio::test(start_paused = true)]
async fn a_refused_peer_gets_the_text() {
    let (layer, budget) = (OverloadLayer::new().refuse_with("later\n"), budget());
    let large = connection().0.with_budget(&budget);
    large.set_buffered(1000);
    let (ours, theirs) = connection();
    let (_, mut theirs, task) = serve(&layer, (ours.with_budget(&budget), theirs)).await;
    let mut text = String::new();
    theirs.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "later\n");
    drop(theirs);
    task.await.unwrap().unwrap();
}

/// The number of tasks of this runtime.
fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

#[tokio::test(start_paused = true)]
async fn the_runtime_is_watched_by_one_task_while_there_are_connections_and_by_no_task_afterwards()
{
    let layer = OverloadLayer::new();
    assert_eq!(tasks(), 0);
    let (ours, _theirs) = connection();
    let mut panics = layer.layer(service_fn(async |connection: Connection| -> io::Result<()> {
        drop(connection);
        panic!("as told")
    }));
    assert!(tokio::spawn(panics.call(ours)).await.is_err());
    let mut fails =
        layer.layer(service_fn(async |_: Connection| Err::<(), _>(io::Error::other("as told"))));
    assert!(fails.call(connection().0).await.is_err());
    drop(layer.layer(Hold::default()).call(connection().0));
    // Each of them began a watch, because there was no other connection.
    sleep(SECOND).await;
    assert_eq!(tasks(), 0);
    let mut open = Vec::new();
    for _ in 0..1000 {
        open.push(serve(&layer.clone(), connection()).await);
    }
    assert_eq!(tasks(), 1001, "one for each connection, and one that looks");
    lag(SECOND).await;
    assert_eq!(layer.stalls(), 1);
    drop(open);
    sleep(3 * SECOND).await;
    assert_eq!((tasks(), layer.current_lag()), (0, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn connections_that_follow_one_another_begin_one_watch() {
    let layer = OverloadLayer::new();
    for _ in 0..1000 {
        drop(layer.layer(Hold::default()).call(connection().0));
    }
    assert_eq!(tasks(), 1);
    sleep(SECOND).await;
    assert_eq!(tasks(), 0);
    // And again, also after an overload without any connection.
    let _open = serve(&layer, connection()).await;
    assert_eq!(tasks(), 2);
    lag(SECOND).await;
    assert!(layer.is_overloaded());
}

#[tokio::test(start_paused = true)]
async fn the_memory_of_each_server_is_looked_at_by_itself() {
    let (layer, one, other) = (OverloadLayer::new(), budget(), budget());
    let (large, small) = (connection().0.with_budget(&one), connection().0.with_budget(&other));
    large.set_buffered(800);
    small.set_buffered(750);
    assert!(!serves(&layer, &one).await);
    assert!(serves(&layer, &other).await, "it was never above its upper mark");
    large.set_buffered(750);
    small.set_buffered(0);
    assert!(serves(&layer, &other).await);
    assert!(!serves(&layer, &one).await, "it was not below its lower mark");
    assert_eq!((layer.shortages(), layer.is_overloaded()), (1, true));
    drop((large, one));
    settle().await;
    assert!(!layer.is_overloaded(), "that server is gone");
}

#[test]
#[should_panic(expected = "nothing is below 0")]
fn a_lower_mark_that_is_never_reached_is_refused_where_it_is_made() {
    let _ = OverloadLayer::new().lag(SECOND, Duration::ZERO);
}

#[test]
#[should_panic(expected = "served again below the mark")]
fn marks_in_the_wrong_order_are_refused_where_they_are_made() {
    let _ = OverloadLayer::new().memory(70, 80);
}
