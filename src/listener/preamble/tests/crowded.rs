//! Crowds of one address: they don't delay other addresses, and use no more descriptors than
//! preambles may have.

use std::future::poll_fn;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::task::unconstrained;
use tokio::time::Instant;

use super::room::{listener, look, open};
use super::{accept, none_within};
use crate::listener::Listener;

#[tokio::test(start_paused = true)]
async fn a_connection_that_waits_for_a_slot_does_not_delay_a_later_one_of_another_address() {
    for bytes in [&b""[..], b"."] {
        let (mut listener, preambles, door) = listener(32);
        let crowd = door.crowd("192.0.2.1", bytes, 1000).await;
        let began = Instant::now();
        let _honest = door.from("192.0.2.2", b"y").await;
        accept(&mut listener).await;
        assert!(began.elapsed() < Duration::from_millis(300), "{:?}", began.elapsed());
        let counts = preambles.counts();
        assert!(counts.begun() == 1001 && counts.pending() <= 32 + 8, "{counts:?}");
        drop(crowd);
    }
}

#[tokio::test(start_paused = true)]
async fn without_descriptors_a_crowded_address_loses_its_oldest_silent_one_before_another_loses_any()
 {
    let (mut listener, preambles, door) = listener(8);
    let mut honest = door.from("192.0.2.1", b"").await;
    let mut crowd = door.crowd("192.0.2.2", b"", 5).await;
    look(&mut listener).await;
    assert!(preambles.drop_silent());
    look(&mut listener).await;
    assert_eq!(open(&mut crowd).await, [false, true, true, true, true]);
    assert_eq!(open(std::slice::from_mut(&mut honest)).await, [true]);
    // It has no more than its share now.
    assert!(preambles.drop_silent());
    look(&mut listener).await;
    assert_eq!(open(std::slice::from_mut(&mut honest)).await, [false]);
}

#[tokio::test(start_paused = true)]
async fn while_no_task_has_a_turn_to_close_dropped_sockets_no_more_are_accepted() {
    const MAX: usize = 32;
    let (mut listener, preambles, door) = listener(MAX);
    let mut clients = door.crowd("192.0.2.1", b"", MAX).await;
    none_within(&mut listener, Duration::from_millis(500)).await;
    for _ in 0..500 {
        clients.extend(door.crowd("192.0.2.2", b"", 1).await);
    }
    // Without yielding to other tasks, as if all processors were busy.
    unconstrained(poll_fn(|_| {
        let cx = &mut Context::from_waker(Waker::noop());
        (0..100).for_each(|_| assert!(listener.poll_accept(cx).is_pending()));
        Poll::Ready(())
    }))
    .await;
    let taken = preambles.counts().begun();
    assert!(taken <= (MAX + 16 + MAX / 4) as u64, "{taken}");
    none_within(&mut listener, Duration::from_millis(50)).await;
    assert!(preambles.counts().begun() > taken);
}
