//! The queue of one outbox.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock, PoisonError};

use ropewalk_middleware::event::tracing::Level;
use ropewalk_middleware::event::{Limit, event};
use ropewalk_middleware::{CloseReason, ConnectionInfo, Error, Escaped};
use tokio::sync::Notify;

use super::sync::{AtomicBool, Mutex, MutexGuard};
use super::{Capacity, PushError, SlowConsumer};

/// The rate of log lines about refused frames: a bad frame sent to a room is refused once for each
/// member.
static REFUSALS: LazyLock<Limit> = LazyLock::new(|| {
    Limit::new(Level::WARN, |suppressed| {
        event!(WARN, suppressed, "more pushed frames can't be encoded");
    })
});

/// The frames of one outbox, on their way from the tasks that push to the connection. Each member
/// of a room has one, so its size matters: fields that few of them need are boxed.
pub(super) struct Queue<F> {
    state: Mutex<QueueState<F>>,
    connection: ConnectionInfo,
    weigh: Option<fn(&F) -> usize>,
    capacity: u32,
    slow: SlowConsumer,
    /// No more frames are accepted. Written while the lock is held.
    closed: AtomicBool,
}

struct QueueState<F> {
    /// The oldest frame. A queue seldom has more than one, and needs no buffer for that.
    first: Option<F>,
    /// Those behind it.
    rest: VecDeque<F>,
    /// `Some` if the bytes are bounded.
    weights: Option<Box<Weights>>,
    /// Notified when there is room again. Made when a task first waits for room.
    room: Option<Arc<Notify>>,
    dropped: u32,
    refused: u32,
}

struct Weights {
    /// The weight of each frame when it was pushed, because it may differ by the time the frame
    /// leaves.
    each: VecDeque<usize>,
    sum: usize,
    max: usize,
}

impl<F> QueueState<F> {
    fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    fn is_empty(&self) -> bool {
        self.first.is_none() && self.rest.is_empty()
    }

    /// Whether `frames` more frames, with this weight in total, exceed the capacity. A single frame
    /// in an empty queue may weigh more than `max`; otherwise it could never be sent.
    fn is_too_much(&self, frames: usize, weight: usize, capacity: u32) -> bool {
        let fits = |weights: &Weights| {
            weights.sum.saturating_add(weight) <= weights.max || self.is_empty() && frames == 1
        };
        self.len() + frames > capacity as usize || !self.weights.as_deref().is_none_or(fits)
    }

    fn put(&mut self, frame: F, weight: usize) {
        if self.is_empty() {
            self.first = Some(frame);
        } else {
            self.rest.push_back(frame);
        }
        if let Some(weights) = &mut self.weights {
            weights.sum = weights.sum.saturating_add(weight);
            weights.each.push_back(weight);
        }
    }

    fn take(&mut self) -> Option<F> {
        let frame = self.first.take().or_else(|| self.rest.pop_front());
        if let Some(weights) = &mut self.weights {
            weights.sum = weights.sum.saturating_sub(weights.each.pop_front().unwrap_or(0));
        }
        if self.is_empty() {
            // The buffer is freed, because an idle connection owns no buffer.
            self.rest = VecDeque::new();
            if let Some(weights) = &mut self.weights {
                weights.each = VecDeque::new();
                weights.sum = 0;
            }
        }
        frame
    }

    /// Takes out the oldest frames until there is room for one more of this weight. The caller
    /// drops them after it has released the lock.
    fn make_room(&mut self, weight: usize, capacity: u32, old: &mut Vec<F>) {
        while self.is_too_much(1, weight, capacity)
            && let Some(frame) = self.take()
        {
            old.push(frame);
            self.dropped = self.dropped.saturating_add(1);
        }
    }
}

impl<F> Queue<F> {
    pub(super) fn new(
        connection: ConnectionInfo,
        capacity: Capacity<F>,
        slow: SlowConsumer,
    ) -> Arc<Self> {
        let weights = || Box::new(Weights { each: VecDeque::new(), sum: 0, max: capacity.bytes });
        let weights = capacity.weigh.map(|_| weights());
        let state = QueueState {
            first: None,
            rest: VecDeque::new(),
            weights,
            room: None,
            dropped: 0,
            refused: 0,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            connection,
            weigh: capacity.weigh,
            capacity: capacity.frames,
            slow,
            closed: AtomicBool::new(false),
        })
    }

    fn lock(&self) -> MutexGuard<'_, QueueState<F>> {
        // No user code runs while it is held, so its data is consistent even after a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn put(&self, frame: F, slow: SlowConsumer) -> Result<(), PushError<F>> {
        let weight = self.weigh.map_or(0, |weigh| weigh(&frame));
        let mut state = self.lock();
        if self.is_closed() {
            return Err(PushError::Closed(frame));
        }
        let mut old = Vec::new();
        if state.is_too_much(1, weight, self.capacity) {
            match slow {
                SlowConsumer::Refuse => return Err(PushError::Full(frame)),
                SlowConsumer::DropOldest => state.make_room(weight, self.capacity, &mut old),
                SlowConsumer::DropNewest => {
                    state.dropped = state.dropped.saturating_add(1);
                    drop(state);
                    return Ok(());
                }
                SlowConsumer::Disconnect => {
                    drop(state);
                    self.disconnect();
                    return Err(PushError::Closed(frame));
                }
            }
        }
        let first = state.is_empty();
        state.put(frame, weight);
        drop(state);
        drop(old);
        if first {
            self.connection.wake();
        }
        Ok(())
    }

    pub(super) fn put_all(&self, frames: Vec<F>) -> Result<(), PushError<Vec<F>>> {
        let weights: Vec<usize> =
            frames.iter().map(|frame| self.weigh.map_or(0, |weigh| weigh(frame))).collect();
        let weight = weights.iter().fold(0, |sum: usize, weight| sum.saturating_add(*weight));
        let mut state = self.lock();
        if self.is_closed() {
            return Err(PushError::Closed(frames));
        }
        // A single frame may weigh more than `max`, and then even no frame is too much.
        let too_much = !frames.is_empty() && state.is_too_much(frames.len(), weight, self.capacity);
        match self.slow {
            SlowConsumer::Refuse if too_much => return Err(PushError::Full(frames)),
            SlowConsumer::Disconnect if too_much => {
                drop(state);
                self.disconnect();
                return Err(PushError::Closed(frames));
            }
            _ => {}
        }
        let first = state.is_empty();
        let mut old = Vec::new();
        for (frame, weight) in frames.into_iter().zip(weights) {
            if state.is_too_much(1, weight, self.capacity) {
                if self.slow == SlowConsumer::DropNewest {
                    state.dropped = state.dropped.saturating_add(1);
                    old.push(frame);
                    continue;
                }
                state.make_room(weight, self.capacity, &mut old);
            }
            state.put(frame, weight);
        }
        let wake = first && !state.is_empty();
        drop(state);
        drop(old);
        if wake {
            self.connection.wake();
        }
        Ok(())
    }

    #[cold]
    fn disconnect(&self) {
        self.close();
        self.connection.closing().abort_for(CloseReason::SlowConsumer);
    }

    pub(super) fn pop(&self) -> Option<F> {
        let mut state = self.lock();
        let frame = state.take();
        let room = state.room.clone();
        drop(state);
        if let Some(room) = room {
            // All waiting tasks: a single one that is notified might be dropped before it uses the
            // room.
            room.notify_waiters();
        }
        frame
    }

    /// The `Notify` that is notified when there is room again.
    pub(super) fn room(&self) -> Arc<Notify> {
        Arc::clone(self.lock().room.get_or_insert_default())
    }

    #[cold]
    pub(super) fn refuse(&self, error: &Error) {
        let mut state = self.lock();
        state.refused = state.refused.saturating_add(1);
        let first = state.refused == 1;
        drop(state);
        if first && REFUSALS.pass() {
            // An error may quote the frame, which may contain a peer's data.
            let id = self.connection.id();
            let error = format!("{:?}", Escaped::display(error));
            event!(WARN, id, %error, "a pushed frame can't be encoded: it is dropped, and so are later ones that can't be encoded");
        }
    }

    /// Closes the queue if it is empty; checking and closing happen under one lock. Returns whether
    /// it is closed.
    pub(super) fn close_if_empty(&self) -> bool {
        let state = self.lock();
        if state.is_empty() {
            self.closed.store(true, Ordering::Release);
        }
        self.is_closed()
    }

    /// Closes the queue and drops the frames in it.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        self.closed.store(true, Ordering::Release);
        let frames = (state.first.take(), std::mem::take(&mut state.rest));
        let room = state.room.clone();
        drop(state);
        drop(frames);
        if let Some(room) = room {
            room.notify_waiters();
        }
    }

    pub(super) fn connection(&self) -> &ConnectionInfo {
        &self.connection
    }

    pub(super) fn slow(&self) -> SlowConsumer {
        self.slow
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    pub(super) fn dropped(&self) -> u64 {
        self.lock().dropped.into()
    }

    pub(super) fn refused(&self) -> u64 {
        self.lock().refused.into()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}
