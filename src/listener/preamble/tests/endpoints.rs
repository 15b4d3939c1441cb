//! Several endpoints, and a paused one.

use std::future::poll_fn;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::super::{LAST, Preambles, WithPreamble};
use super::{DEADLINE, Word, accept, begun, listener, none_within, of};
use crate::listener::Listener;
use crate::memory::{self, Connector};

/// Two listeners that share this many slots, each with its connector.
async fn two(slots: usize) -> (Preambles, [(WithPreamble, Connector); 2]) {
    let preambles = Preambles::new(slots);
    let mut both = Vec::new();
    for _ in 0..2 {
        let (endpoint, connector) = memory::endpoint();
        let inner = endpoint.bind().await.unwrap();
        let own = preambles.for_endpoint(0);
        both.push((WithPreamble::new(inner, vec![Box::new(Word)], own), connector));
    }
    let Ok(both) = both.try_into() else { unreachable!("there are two") };
    (preambles, both)
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_is_removed_ends_its_own_silent_preambles_and_not_those_of_another() {
    let (preambles, [(mut stays, to_stays), (mut goes, to_goes)]) = two(64).await;
    let mut silent = begun(&to_stays, b"").await;
    let _own = begun(&to_goes, b"").await;
    let _begun = begun(&to_goes, b".").await;
    none_within(&mut stays, Duration::from_millis(1)).await;
    none_within(&mut goes, Duration::from_millis(1)).await;
    goes.last_call();
    none_within(&mut goes, LAST * 2).await;
    assert_eq!(of(&goes.preambles.of_endpoint()), [2, 1, 0, 0, 0, 1]);
    silent.write_all(b"y").await.unwrap();
    timeout(DEADLINE / 2, accept(&mut stays)).await.expect("it goes on");
    assert_eq!(of(&preambles.counts()), [3, 1, 1, 0, 0, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_preamble_that_waited_for_the_first_slot_of_its_listener_is_accepted_when_it_passes() {
    let (preambles, [(mut a, to_a), (mut b, to_b)]) = two(1).await;
    let _silent = begun(&to_a, b"").await;
    none_within(&mut a, Duration::from_millis(1)).await;
    let _client = begun(&to_b, b"y").await;
    timeout(DEADLINE / 2, accept(&mut b)).await.expect("it takes the slot of the silent one");
    let [one, other] = [&a, &b].map(|listener| of(&listener.preambles.of_endpoint()));
    assert_eq!(
        (one, other),
        ([1, 0, 0, 0, 0, 1], [1, 0, 1, 0, 0, 0]),
        "each is counted where it came from"
    );
    assert_eq!(of(&preambles.counts()), [2, 0, 1, 0, 0, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_paused_listener_returns_accepted_connections_and_accepts_no_more() {
    let (mut listener, counts, connector) = listener().await;
    let mut begun_before = begun(&connector, b".").await;
    none_within(&mut listener, Duration::from_millis(1)).await;
    let _later = begun(&connector, b"y").await;
    begun_before.write_all(b"y").await.unwrap();
    poll_fn(|cx| listener.poll_pending(cx)).await;
    assert!(timeout(DEADLINE, poll_fn(|cx| listener.poll_pending(cx))).await.is_err());
    assert_eq!(of(&counts.counts()), [1, 0, 1, 0, 0, 0]);
    accept(&mut listener).await;
}
