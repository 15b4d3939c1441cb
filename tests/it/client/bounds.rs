//! The rules of a client, the fifth and the sixth: both ways at once, an idle connection, and
//! bounds; and what panics.

use std::task::Poll;
use std::time::Duration;

use futures::future::join_all;
use futures::{FutureExt, poll};
use ropewalk::client::{Client, ClientError, ClientState};
use ropewalk::codec::{Decoder, Encoder};
use ropewalk::{Bytes, BytesMut, Lines, Reply, framed, reply_fn};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tower::{Service, ServiceExt};

use crate::called::{audit, call, ends, serve, settle, soon};

fn is_not_sent(result: &Result<Bytes, ClientError>) -> bool {
    matches!(result, Err(ClientError::NotSent(_)))
}

fn may_have_arrived(result: &Result<Bytes, ClientError>) -> bool {
    matches!(result, Err(ClientError::MayHaveArrived(_)))
}

#[tokio::test(start_paused = true)]
async fn rule_5_it_reads_while_a_write_waits_so_that_two_full_windows_do_not_wait_for_each_other() {
    let (connector, mut ends) = ends(16).await;
    let (store, _handle) = Client::new()
        .connect(connector)
        .in_flight(1000)
        .pipelined::<String, _>(Lines::lf())
        .unwrap();
    let calls: Vec<_> = (0..1000).map(|i| store.clone().oneshot(format!("{i:0>100}"))).collect();
    let all = tokio::spawn(join_all(calls));
    let mut end = ends.accept().await;
    // A server that writes each answer before it reads on.
    let mut line = vec![0; 101];
    for _ in 0..1000 {
        soon(end.0.read_exact(&mut line)).await.unwrap();
        soon(end.0.write_all(&line)).await.unwrap();
    }
    for (i, answer) in all.await.unwrap().into_iter().enumerate() {
        assert_eq!(answer.unwrap(), format!("{i:0>100}"));
    }
}

#[tokio::test(start_paused = true)]
async fn rule_5_the_end_of_an_idle_connection_is_seen_before_the_next_call() {
    for abort in [false, true] {
        let (connector, mut ends) = ends(100).await;
        let (store, handle) =
            Client::new().connect(connector).pipelined::<String, _>(Lines::lf()).unwrap();
        let mut end = ends.accept().await;
        soon(handle.connected()).await.unwrap();
        if abort {
            end.0.abort();
        }
        drop(end);
        settle().await;
        assert!(matches!(handle.state(), ClientState::Waiting { .. }), "{:?}", handle.state());
        let mut end = ends.accept().await;
        let asked = call(&store, "x").await;
        end.expect("x\n").await;
        end.say("X\n").await;
        assert_eq!(soon(asked).await.unwrap(), "X");
    }
}

#[tokio::test(start_paused = true)]
async fn rule_6_a_readied_clone_that_is_dropped_gives_its_place_back_and_a_granted_one_hands_it_on()
{
    let (connector, mut ends) = ends(100).await;
    let (store, handle) =
        Client::new().connect(connector).in_flight(1).pipelined::<String, _>(Lines::lf()).unwrap();
    let mut end = ends.accept().await;
    let mut ready = store.clone();
    soon(ready.ready()).await.unwrap();
    let mut next = store.clone();
    assert!(poll!(std::pin::pin!(next.ready())).is_pending());
    drop(ready);
    let a = soon(next.ready()).await.unwrap().call("a".to_owned());
    let (mut b, mut c) = (store.clone(), store.clone());
    assert!(poll!(std::pin::pin!(b.ready())).is_pending());
    assert!(poll!(std::pin::pin!(c.ready())).is_pending());
    end.expect("a\n").await;
    end.say("A\n").await;
    soon(a).await.unwrap();
    // It has the place and does not know of it yet.
    drop(b);
    soon(c.ready()).await.unwrap();
    drop(c);
    assert_eq!(handle.in_flight(), 0);
    // One that waits and is dropped leaves nothing behind.
    let mut ready = store.clone();
    soon(ready.ready()).await.unwrap();
    let mut gone = store.clone();
    assert!(poll!(std::pin::pin!(gone.ready())).is_pending());
    drop(gone);
    drop(ready);
    assert_eq!(handle.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn rule_6_a_call_that_was_not_ready_is_an_error_and_no_panic() {
    let (connector, _ends) = ends(100).await;
    let (mut store, handle) =
        Client::new().connect(connector).pipelined::<String, _>(Lines::lf()).unwrap();
    assert!(matches!(store.call("x".to_owned()).await, Err(ClientError::NotReady)));
    assert_eq!(handle.counts().calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn rule_6_requests_encoded_ahead_of_a_slow_server_are_bounded_and_the_rest_is_queued() {
    let (connector, mut ends) = ends(16).await;
    let (store, _handle) = Client::new()
        .connect(connector)
        .in_flight(100)
        .pipelined::<String, _>(Lines::lf().max(100_000))
        .unwrap();
    let mut end = ends.accept().await;
    let line = "x".repeat(20_000);
    let calls = join_all((0..100).map(|_| call(&store, &line))).await;
    settle().await;
    drop(end.0);
    let results =
        soon(join_all(calls.into_iter().map(|call| timeout(Duration::from_secs(1), call)))).await;
    // 64 KiB are four of them, of which the first has begun; the others wait for the next
    // connection.
    let failed: Vec<_> = results.into_iter().flatten().collect();
    assert_eq!(failed.len(), 4, "{failed:?}");
    assert!(may_have_arrived(&failed[0]) && failed[1..].iter().all(is_not_sent), "{failed:?}");
    end = ends.accept().await;
    end.expect(&line[..100]).await;
}

#[tokio::test(start_paused = true)]
async fn rule_6_requests_there_was_no_room_for_are_encoded_when_there_is() {
    // The transport takes all at once, so that nothing but the client itself could tell it to go
    // on.
    let (connector, mut ends) = ends(10_000_000).await;
    let (store, _handle) = Client::new()
        .connect(connector)
        .in_flight(100)
        .pipelined::<String, _>(Lines::lf().max(100_000))
        .unwrap();
    let mut end = ends.accept().await;
    let line = "x".repeat(20_000);
    let calls = join_all((0..100).map(|_| call(&store, &line))).await;
    let mut all = vec![0; 100 * 20_001];
    soon(end.0.read_exact(&mut all)).await.unwrap();
    end.say(&"X\n".repeat(100)).await;
    assert!(soon(join_all(calls)).await.into_iter().all(|answer| answer.unwrap() == "X"));
}

#[tokio::test(start_paused = true)]
async fn rule_6_a_request_that_the_codec_refuses_fails_alone() {
    let (connector, mut ends) = ends(100).await;
    let (store, handle) =
        Client::new().connect(connector).pipelined::<String, _>(Lines::lf().max(5)).unwrap();
    let mut end = ends.accept().await;
    let [a, b, c] = [call(&store, "a").await, call(&store, "1\n2").await, call(&store, "c").await];
    end.expect("a\nc\n").await;
    end.say("A\nC\n").await;
    assert!(matches!(soon(b).await, Err(ClientError::Codec(_))));
    assert_eq!((soon(a).await.unwrap(), soon(c).await.unwrap()), ("A".into(), "C".into()));
    assert_eq!(handle.counts().connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn rule_6_answers_of_dropped_calls_hold_no_place() {
    let (connector, _server) = serve(framed(Lines::lf(), reply_fn(|line: Bytes| line)));
    let (store, handle) =
        Client::new().connect(connector).in_flight(2).pipelined::<String, _>(Lines::lf()).unwrap();
    let mut calls = Vec::new();
    for i in 0..100 {
        calls.push(call(&store, &i.to_string()).await);
    }
    for (i, call) in calls.into_iter().enumerate() {
        assert_eq!(soon(call).await.unwrap(), i.to_string());
    }
    audit(&handle);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_once_and_closes_fails_the_others_and_is_called_again() {
    let (connector, _server) =
        serve(framed(Lines::lf(), reply_fn(|line: Bytes| Reply::one(line).then_close())));
    let (store, _handle) =
        Client::new().connect(connector).pipelined::<String, _>(Lines::lf()).unwrap();
    let (a, b) = (call(&store, "a").await, call(&store, "b").await);
    assert_eq!(soon(a).await.unwrap(), "a");
    assert!(may_have_arrived(&soon(b).await));
    assert_eq!(soon(store.ask("c")).await.unwrap(), "c");
}

/// A codec that panics.
#[derive(Clone)]
struct Panics;

impl Encoder<String> for Panics {
    type Error = std::io::Error;

    fn encode(&mut self, line: String, _: &mut BytesMut) -> std::io::Result<()> {
        panic!("{line}")
    }
}

impl Decoder for Panics {
    type Item = Bytes;
    type Error = std::io::Error;

    fn decode(&mut self, _: &mut BytesMut) -> std::io::Result<Option<Bytes>> {
        Ok(None)
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_codec_or_the_end_of_the_runtime_leaves_no_caller_waiting() {
    let (connector, _ends) = ends(100).await;
    let (store, handle) = Client::new().connect(connector).pipelined(Panics).unwrap();
    let (a, b) = soon(async { tokio::join!(store.ask("a"), store.ask("b")) }).await;
    assert!(a.is_err() && b.is_err());
    assert!(soon(store.ask("c")).await.unwrap_err().is_not_sent());
    soon(handle.ended()).await;
    audit(&handle);
}

#[test]
fn the_end_of_the_runtime_leaves_no_caller_waiting() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (store, out) = runtime.block_on(async {
        let (connector, mut ends) = ends(100).await;
        let (store, _handle) =
            Client::new().connect(connector).pipelined::<String, _>(Lines::lf()).unwrap();
        let mut end = ends.accept().await;
        let out = call(&store, "a").await;
        end.expect("a\n").await;
        (store, out)
    });
    drop(runtime);
    assert!(matches!(out.now_or_never(), Some(Err(ClientError::MayHaveArrived(_)))));
    assert!(store.ask("b").now_or_never().unwrap().unwrap_err().is_not_sent());
}

#[tokio::test(start_paused = true)]
async fn a_call_wakes_the_task_that_polled_it_last() {
    let (connector, mut ends) = ends(100).await;
    let (store, _handle) =
        Client::new().connect(connector).pipelined::<String, _>(Lines::lf()).unwrap();
    let mut end = ends.accept().await;
    let mut asked = call(&store, "a").await;
    assert!(matches!(poll!(&mut asked), Poll::Pending));
    let asked = tokio::spawn(asked);
    end.expect("a\n").await;
    end.say("A\n").await;
    assert_eq!(soon(asked).await.unwrap().unwrap(), "A");
}
