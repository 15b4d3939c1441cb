//! Calls that use up the budget that tokio gives a task.

use std::time::Duration;

use bytes::Bytes;
use ropewalk::{Lines, Result, framed, service_fn};
use tokio::io::AsyncReadExt;
use tokio::task::consume_budget;
use tokio::time::{Instant, sleep};

use crate::wired::wired;

/// `busy` takes a thousand values that are there, as from a channel.
async fn work(line: Bytes) -> Result<Bytes> {
    match &line[..] {
        b"busy" => {
            for _ in 0..1000 {
                consume_budget().await;
            }
        }
        b"long" => sleep(Duration::from_secs(10)).await,
        _ => {}
    }
    Ok(line)
}

#[tokio::test(start_paused = true)]
async fn the_answer_of_a_busy_call_does_not_wait_for_the_long_one_behind_it() {
    let mut w = wired(framed(Lines::lf(), service_fn(work)));
    let start = Instant::now();
    // The answer of the first is written while the second one has used up the budget, and then
    // comes the pause between two writes.
    w.say("quick\nbusy\nlong\n").await;
    let mut heard = [0; 11];
    w.peer.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"quick\nbusy\n");
    assert!(start.elapsed() <= Duration::from_millis(2), "{:?}", start.elapsed());
    w.closing.abort();
}
