//! Several endpoints, and a paused one.

use std::future::poll_fn;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::super::{Preambles, WithPreamble};
use super::{DEADLINE, Word, accept, begun, listener, none_within, of};
use crate::listener::Listener;
use crate::memory;

#[tokio::test(start_paused = true)]
async fn a_preamble_that_waited_for_the_first_slot_of_its_listener_is_accepted_when_it_passes() {
    let preambles = Preambles::new(1);
    let [(a, to_a), (b, to_b)] = [(); 2].map(|()| memory::endpoint());
    let mut both = Vec::new();
    for (endpoint, preambles) in [(a, preambles.for_endpoint(0)), (b, preambles.for_endpoint(0))] {
        both.push(WithPreamble::new(
            endpoint.bind().await.unwrap(),
            vec![Box::new(Word)],
            preambles,
        ));
    }
    let _silent = begun(&to_a, b"").await;
    none_within(&mut both[0], Duration::from_millis(1)).await;
    let _client = begun(&to_b, b"y").await;
    timeout(DEADLINE / 2, accept(&mut both[1])).await.expect("it takes the slot of the silent one");
    let [one, other] = [&both[0], &both[1]].map(|listener| of(&listener.preambles.of_endpoint()));
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
