//! Threads push while the connection waits: it hears each frame once, and those of a thread in
//! their order.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::BytesMut;
use loom::future::block_on;
use loom::model::Builder;
use loom::thread;
use tokio_util::codec::Encoder;

use crate::outbox::{Capacity, Inbox, Outbox, PushError, SlowConsumer};
use crate::wire::Wire;
use crate::{ConnectionInfo, Error};

/// A frame is its thread and its number.
type Frame = [u8; 2];

struct Plain;

impl Encoder<Frame> for Plain {
    type Error = Error;

    fn encode(&mut self, frame: Frame, output: &mut BytesMut) -> Result<(), Error> {
        output.extend_from_slice(&frame);
        Ok(())
    }
}

/// The connection's end.
struct Consumer {
    connection: ConnectionInfo,
    inbox: Inbox<Plain>,
    wire: Wire,
}

impl Consumer {
    fn new(capacity: u32) -> (Self, Outbox<Frame>) {
        let (connection, mut inbox) = (ConnectionInfo::default(), Inbox::default());
        let capacity = Capacity { frames: capacity, bytes: usize::MAX, weigh: None };
        let outbox = inbox.open(connection.clone(), capacity, SlowConsumer::Refuse);
        (Self { wire: Wire::new(&connection), connection, inbox }, outbox)
    }

    fn poll(&mut self, cx: &mut Context<'_>) {
        assert!(matches!(self.inbox.poll(&mut Plain, &mut self.wire, cx), Poll::Ready(Ok(()))));
    }

    /// Hears what was taken until the outbox closes.
    fn hear_the_rest(&mut self) {
        block_on(poll_fn(|cx| self.inbox.poll_last(&mut Plain, &mut self.wire, cx))).unwrap();
    }

    fn has_heard(&self, frames: usize) -> Poll<()> {
        if self.wire.output.len() / size_of::<Frame>() < frames {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    /// Waits for so many frames, each time by a `next` that is polled once and dropped, and by
    /// another one.
    fn hear(&mut self, frames: usize) {
        block_on(poll_fn(|cx| {
            self.poll(&mut Context::from_waker(Waker::noop()));
            self.poll(cx);
            self.has_heard(frames)
        }));
    }

    /// The frames heard from each thread are 0, 1, 2 …; returns how many they are.
    fn heard(&self) -> usize {
        let mut next = [0; 4];
        for frame in self.wire.output.chunks_exact(size_of::<Frame>()) {
            let next = &mut next[usize::from(frame[0])];
            assert_eq!(frame[1], *next, "of thread {}", frame[0]);
            *next += 1;
        }
        next.iter().map(|heard| usize::from(*heard)).sum()
    }
}

/// Pushes so many frames, each until there is room for it. Returns how many were taken before the
/// outbox was closed.
fn push(outbox: &Outbox<Frame>, thread: u8, frames: u8) -> usize {
    for n in 0..frames {
        while let Err(error) = outbox.push([thread, n]) {
            match error {
                PushError::Full(_) => thread::yield_now(),
                PushError::Closed(_) => return usize::from(n),
            }
        }
    }
    frames.into()
}

fn pushing(outbox: &Outbox<Frame>, frames: &[u8]) -> Vec<thread::JoinHandle<usize>> {
    let each = (0..).zip(frames.to_vec()).map(|(thread, frames)| (outbox.clone(), thread, frames));
    each.map(|(outbox, thread, frames)| thread::spawn(move || push(&outbox, thread, frames)))
        .collect()
}

/// Tries the orders with at most so many switches away from a thread that could go on.
fn model(switches: usize, run: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(switches);
    builder.check(run);
}

fn all_is_heard(capacity: u32, frames: &'static [u8]) -> impl Fn() + Sync + Send + 'static {
    move || {
        let (mut consumer, outbox) = Consumer::new(capacity);
        let pushing = pushing(&outbox, frames);
        let all = frames.iter().map(|n| usize::from(*n)).sum();
        consumer.hear(all);
        let taken: usize = pushing.into_iter().map(|thread| thread.join().unwrap()).sum();
        consumer.poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!((taken, consumer.heard()), (all, all));
    }
}

#[test]
fn frames_of_three_threads_are_heard_once_and_in_order_by_a_next_that_is_dropped_at_each_poll() {
    model(2, all_is_heard(8, &[2, 1, 1]));
}

#[test]
fn frames_that_wait_for_room_are_heard_once_and_in_order() {
    model(3, all_is_heard(1, &[3]));
}

#[test]
fn a_drain_writes_the_accepted_pushes_and_closes_the_outbox_to_the_rest() {
    model(3, || {
        let (mut consumer, outbox) = Consumer::new(8);
        let pushing = pushing(&outbox, &[1, 2]);
        consumer.hear_the_rest();
        let taken: usize = pushing.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert_eq!(consumer.heard(), taken);
        assert!(matches!(outbox.push([3, 0]), Err(PushError::Closed(_))));
    });
}

/// Polls once while a thread pushes a frame: it is heard, or the waker was woken.
fn wakes_or_hears(
    poll: impl Fn(&mut Consumer, &Outbox<Frame>, &mut Context<'_>) + Sync + Send + 'static,
) {
    model(3, move || {
        let (mut consumer, outbox) = Consumer::new(8);
        let (pushing, woken) = (pushing(&outbox, &[1]), Arc::new(Woken::default()));
        poll(&mut consumer, &outbox, &mut Context::from_waker(&Waker::from(Arc::clone(&woken))));
        pushing.into_iter().for_each(|thread| drop(thread.join()));
        let knows = consumer.has_heard(1).is_ready() || woken.0.load(Ordering::SeqCst);
        assert!(knows, "a wake-up is lost");
    });
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_push_during_a_poll_is_heard_or_wakes() {
    wakes_or_hears(|consumer, _, cx| consumer.poll(cx));
}

/// That the models find it, if the waker is left only after the look.
#[test]
#[should_panic(expected = "a wake-up is lost")]
fn a_waker_that_is_left_after_the_look_into_the_queue_loses_a_wake_up() {
    wakes_or_hears(|consumer, outbox, cx| {
        while let Some(frame) = outbox.pop() {
            consumer.wire.output.extend_from_slice(&frame);
        }
        consumer.connection.closing().watch(cx);
    });
}
