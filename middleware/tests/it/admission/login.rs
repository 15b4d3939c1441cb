//! Connections whose peers have to log in.

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use ropewalk_middleware::{CloseReason, Closing, Connection, ConnectionInfo, LoginLayer, login};
use tokio::io::{AsyncReadExt, DuplexStream};
use tokio::task::JoinHandle;
use tokio::time::advance;
use tower::{Layer, Service, service_fn};

use crate::common::{Hold, connection, settle};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

type Served = (ConnectionInfo, DuplexStream, JoinHandle<io::Result<()>>);

/// A connection that stays, and takes no notice of a drain.
async fn hold(layer: &LoginLayer) -> Served {
    let (ours, theirs) = connection();
    let info = ours.info();
    let task = tokio::spawn(layer.layer(Hold::default()).call(ours));
    settle().await;
    (info, theirs, task)
}

fn reason(info: &ConnectionInfo) -> Option<CloseReason> {
    info.closing().reason()
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_has_not_logged_in_in_time_is_drained_and_not_before() {
    let layer = LoginLayer::new().within(30 * SECOND);
    let (ours, _theirs) = connection();
    let closing: Closing = ours.closing();
    let until_drained = service_fn(async |connection: Connection| {
        let closing = connection.closing();
        poll_fn(|cx| closing.poll_draining(cx)).await;
        Ok::<_, io::Error>(())
    });
    let task = tokio::spawn(layer.layer(until_drained).call(ours));
    settle().await;
    advance(30 * SECOND - MS).await;
    settle().await;
    assert_eq!((closing.is_draining(), closing.reason()), (false, None));
    advance(MS).await;
    task.await.unwrap().unwrap();
    assert_eq!((closing.is_aborted(), closing.reason()), (false, Some(CloseReason::LoginTimeout)));
    assert_eq!(layer.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_that_stays_is_aborted_five_seconds_later() {
    let layer = LoginLayer::new();
    let (info, _theirs, _task) = hold(&layer).await;
    advance(125 * SECOND - MS).await;
    settle().await;
    assert_eq!((info.closing().is_draining(), info.closing().is_aborted()), (true, false));
    advance(MS).await;
    settle().await;
    assert_eq!(
        (info.closing().is_aborted(), reason(&info)),
        (true, Some(CloseReason::LoginTimeout))
    );
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_has_logged_in_has_no_deadline_and_leaves_its_place_to_another() {
    let layer = LoginLayer::new().at_most(1);
    let (info, _theirs, _task) = hold(&layer).await;
    assert_eq!((layer.waiting(), login::is_complete(&info)), (1, false));
    login::complete(&info);
    login::complete(&info);
    assert_eq!((layer.waiting(), login::is_complete(&info)), (0, true));
    let (second, _theirs_too, _task_too) = hold(&layer).await;
    assert_eq!((layer.waiting(), reason(&second)), (1, None));
    advance(3600 * SECOND).await;
    settle().await;
    assert_eq!((info.closing().is_draining(), reason(&info)), (false, None));
    assert_eq!(reason(&second), Some(CloseReason::LoginTimeout));
}

#[tokio::test(start_paused = true)]
async fn a_connection_above_the_limit_is_refused_with_a_text() {
    let layer = LoginLayer::new().at_most(2).refuse_with("try later\n");
    let waiting = [hold(&layer).await, hold(&layer).await];
    let (third, mut theirs, task) = hold(&layer).await;
    assert_eq!(reason(&third), Some(CloseReason::LoginLimit));
    let mut text = String::new();
    theirs.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "try later\n");
    drop(theirs);
    task.await.unwrap().unwrap();
    assert_eq!(layer.waiting(), 2);
    let [(.., theirs, task), other] = waiting;
    drop(theirs);
    task.await.unwrap().unwrap();
    assert_eq!(layer.waiting(), 1);
    let (fourth, ..) = hold(&layer.clone()).await;
    assert_eq!(reason(&fourth), None);
    drop(other);
}

#[tokio::test(start_paused = true)]
async fn connections_that_end_panic_or_are_dropped_leave_nothing_behind() {
    let layer = LoginLayer::new();
    let (ours, _theirs) = connection();
    let kept = ours.info();
    let mut panics = layer.layer(service_fn(async |connection: Connection| -> io::Result<()> {
        drop(connection);
        panic!("as told")
    }));
    assert!(tokio::spawn(panics.call(ours)).await.is_err());
    let (ours, _theirs) = connection();
    drop(layer.layer(Hold::default()).call(ours));
    let (info, _theirs, task) = hold(&layer).await;
    task.abort();
    assert!(task.await.is_err());
    // The infos live on.
    assert_eq!(
        (layer.waiting(), login::is_complete(&info), login::is_complete(&kept)),
        (0, true, true)
    );
    advance(3600 * SECOND).await;
    settle().await;
    assert_eq!(reason(&info), None);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_clones_share_one_limit() {
    let layer = LoginLayer::new().at_most(500);
    let mut held = Vec::new();
    for _ in 0..1000 {
        held.push(hold(&layer.clone()).await);
    }
    let refused =
        held.iter().filter(|(info, ..)| reason(info) == Some(CloseReason::LoginLimit)).count();
    assert_eq!((layer.waiting(), refused), (500, 500));
}

#[tokio::test(start_paused = true)]
async fn two_layers_around_a_connection_both_count_it_until_its_login() {
    let (outer, inner) = (LoginLayer::new().within(30 * SECOND), LoginLayer::new().at_most(1));
    let serve = async || {
        let (ours, theirs) = connection();
        let info = ours.info();
        let task = tokio::spawn(outer.layer(inner.layer(Hold::default())).call(ours));
        settle().await;
        (info, theirs, task)
    };
    let (user, _theirs, _task) = serve().await;
    assert_eq!((outer.waiting(), inner.waiting(), login::is_complete(&user)), (1, 1, false));
    login::complete(&user);
    assert_eq!((outer.waiting(), inner.waiting(), login::is_complete(&user)), (0, 0, true));
    let (guest, theirs, task) = serve().await;
    advance(30 * SECOND).await;
    settle().await;
    assert_eq!((reason(&user), reason(&guest)), (None, Some(CloseReason::LoginTimeout)));
    drop(theirs);
    task.await.unwrap().unwrap();
    assert_eq!((outer.waiting(), inner.waiting()), (0, 0));
}

#[tokio::test]
async fn without_the_layer_no_login_is_waited_for() {
    let (ours, _theirs) = connection();
    login::complete(&ours.info());
    assert!(login::is_complete(&ours.info()));
}
