//! What a call asks of the allocator: the frame of its answer, and little else.
#![allow(clippy::unwrap_used)]

mod called;
mod harness;

use std::alloc::System;
use std::pin::pin;

use called::ends;
use futures::poll;
use ropewalk::client::Client;
use ropewalk::{Bytes, Lines};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::{Service, ServiceExt};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const BURST: usize = 64;
const LINE: &[u8] = b"012345678901234567890123456789012345678901234567890123456789012";

// The only test of this file: the allocator counts for all threads.
#[tokio::test(start_paused = true)]
async fn a_call_allocates_the_frame_of_its_answer_and_nothing_else_and_a_single_one_a_buffer_besides()
 {
    let (connector, mut ends) = ends(64 * 1024).await;
    let (mut store, _handle) =
        Client::new().connect(connector).pipelined::<Bytes, _>(Lines::lf()).unwrap();
    let mut end = ends.accept().await;
    let (mut calls, mut bytes) = (Vec::with_capacity(BURST), [0; BURST * (LINE.len() + 1)]);
    let mut wave = async || {
        for _ in 0..BURST {
            calls.push(store.ready().await.unwrap().call(Bytes::from_static(LINE)));
        }
        end.0.read_exact(&mut bytes).await.unwrap();
        end.0.write_all(&bytes).await.unwrap();
        for call in calls.drain(..) {
            assert_eq!(call.await.unwrap(), LINE);
        }
    };
    // The memory that is kept from burst to burst exists after the first bursts.
    wave().await;
    wave().await;
    let region = Region::new(ALLOCATOR);
    for _ in 0..10 {
        wave().await;
    }
    let allocations = region.change().allocations;
    let calls = 10 * BURST;
    assert!(allocations >= calls, "the frames are counted");
    assert!(allocations <= calls + calls / 20, "{allocations} allocations for {calls} calls");

    // One at a time, by `ask`: the bytes that were read are in a buffer of their own, and a burst
    // has one.
    let mut one = [0; LINE.len() + 1];
    let mut single = async || {
        let mut asked = pin!(store.ask(Bytes::from_static(LINE)));
        assert!(poll!(&mut asked).is_pending());
        end.0.read_exact(&mut one).await.unwrap();
        end.0.write_all(&one).await.unwrap();
        assert_eq!(asked.await.unwrap(), LINE);
    };
    single().await;
    let mut least = usize::MAX;
    // The thread of the test runner may allocate meanwhile. What a call allocates shows each time.
    for _ in 0..5 {
        let region = Region::new(ALLOCATOR);
        for _ in 0..BURST {
            single().await;
        }
        least = least.min(region.change().allocations);
    }
    assert!((BURST..=2 * BURST).contains(&least), "{least} allocations for {BURST} calls");
}
