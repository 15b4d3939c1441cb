//! A client among tower's layers: the usual ones, balancing by load, and another attempt for what
//! was not sent.

use std::time::Duration;

use futures::future::join_all;
use ropewalk::client::{Client, ClientError, NotSent};
use ropewalk::{Bytes, Lines, framed, reply_fn};
use tokio::time::sleep;
use tower::balance::p2c::Balance;
use tower::discover::ServiceList;
use tower::load::{CompleteOnResponse, Load, PeakEwma};
use tower::retry::Retry;
use tower::{Service, ServiceBuilder, ServiceExt};

use crate::called::{Store, call, ends, nobody, serve, settle, soon};

fn store() -> Store {
    let (connector, server) = serve(framed(Lines::lf(), reply_fn(|line: Bytes| line)));
    std::mem::forget(server);
    Client::new().connect(connector).in_flight(4).pipelined::<String, _>(Lines::lf()).unwrap().0
}

#[tokio::test(start_paused = true)]
async fn the_usual_layers_stand_around_it() {
    let store = store();
    let layers =
        ServiceBuilder::new().buffer(16).concurrency_limit(3).timeout(Duration::from_secs(1));
    let all = layers.retry(NotSent::once()).service(store.clone());
    let calls = (0..20).map(|i| all.clone().oneshot(i.to_string()));
    for (i, answer) in soon(join_all(calls)).await.into_iter().enumerate() {
        assert_eq!(answer.unwrap(), i.to_string());
    }
    assert_eq!(
        soon(ServiceBuilder::new().load_shed().service(store).oneshot("z".to_owned()))
            .await
            .unwrap(),
        "z"
    );
}

#[tokio::test(start_paused = true)]
async fn no_call_goes_to_a_connection_that_is_not_there_as_long_as_there_is_another() {
    let (dead, _handle) = Client::new()
        .connect(nobody())
        .call_within(Duration::from_secs(2))
        .pipelined::<String, _>(Lines::lf())
        .unwrap();
    assert_eq!(dead.load(), usize::MAX);
    let mut balance = Balance::new(ServiceList::new(vec![store(), dead.clone()]));
    for i in 0..100 {
        // The dead one is ready after 2 s, for a call that fails.
        sleep(Duration::from_millis(100)).await;
        assert_eq!(
            soon(balance.ready()).await.unwrap().call(i.to_string()).await.unwrap(),
            i.to_string()
        );
    }
    assert_eq!(balance.len(), 2);
    let ewma =
        |store| PeakEwma::new(store, Duration::from_millis(30), 1e6, CompleteOnResponse::default());
    let mut balance = Balance::new(ServiceList::new(vec![ewma(store()), ewma(store())]));
    assert_eq!(soon(balance.ready()).await.unwrap().call("x".to_owned()).await.unwrap(), "x");
}

#[tokio::test(start_paused = true)]
async fn unsent_requests_are_tried_again_once_and_sent_ones_never() {
    let (connector, mut ends) = ends(10).await;
    let (store, _handle) =
        Client::new().connect(connector).pipelined::<String, _>(Lines::lf()).unwrap();
    let end = ends.accept().await;
    let retry = |store: &Store| Retry::new(NotSent::once(), store.clone());
    let sent = call(&store, "123456789").await;
    settle().await;
    let again = tokio::spawn(retry(&store).oneshot("again".to_owned()));
    settle().await;
    // The ten bytes of the first are all that the transport holds.
    drop(end);
    assert!(matches!(soon(sent).await, Err(ClientError::MayHaveArrived(_))));
    let mut end = ends.accept().await;
    end.expect("a").await;
    end.expect("gain\n").await;
    end.say("A\n").await;
    assert_eq!(soon(again).await.unwrap().unwrap(), "A");
    let never = tokio::spawn(retry(&store).oneshot("never".to_owned()));
    end.expect("never\n").await;
    drop(end);
    assert!(matches!(soon(never).await.unwrap(), Err(ClientError::MayHaveArrived(_))));
}
