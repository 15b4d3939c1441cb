//! Outboxes together.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use slab::Slab;
use tokio::task::yield_now;

use super::Outbox;

/// So many members are pushed to before other tasks get their turn.
const MEMBERS_A_TURN: usize = 256;

/// Outboxes of many connections: what is sent to a room is pushed to each of its members. Cheap to clone, and all clones are
/// one room.
///
/// ```
/// use ropewalk::{Bytes, Lines, Result, Room, Session, SlowConsumer};
///
/// async fn chat(mut s: Session<Lines>, room: Room<Bytes>) -> Result {
///     let me = room.join(s.outbox(256, SlowConsumer::Disconnect));
///     while let Some(line) = s.next().await? {
///         room.send_except(me.id(), line).await;
///     }
///     Ok(())
/// }
/// ```
///
/// Each member has the frames of one sender in their order. Two that send at once may be heard in another order by one
/// member than by the next. A frame is cloned, and encoded, for each member: push `Bytes` or an `Arc` for what is large, or
/// what is costly to encode by [`Session::outbox_raw`](crate::Session::outbox_raw).
pub struct Room<F>(Arc<Mutex<Members<F>>>);

struct Members<F> {
    slots: Slab<Outbox<F>>,
    /// All of them, for whoever sends: made anew by the first that sends after a change.
    all: Option<Arc<[Outbox<F>]>>,
}

impl<F> Room<F> {
    /// A room without members.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Members { slots: Slab::new(), all: None })))
    }

    fn lock(&self) -> MutexGuard<'_, Members<F>> {
        // No user code runs under it; what it guards is whole whatever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets an outbox in until the member is dropped.
    pub fn join(&self, outbox: Outbox<F>) -> Member<F> {
        let mut members = self.lock();
        let all = members.all.take();
        let id = members.slots.insert(outbox);
        drop(members);
        // Behind the lock, for it may be the last to have an outbox, and that a frame.
        drop(all);
        Member { id, room: self.clone() }
    }

    /// How many members it has.
    pub fn len(&self) -> usize {
        self.lock().slots.len()
    }

    /// Whether it has no member.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The outboxes of all members, in no order.
    pub fn members(&self) -> Vec<Outbox<F>> {
        self.all(None).0.to_vec()
    }

    /// All members, and the one with this number.
    fn all(&self, id: Option<usize>) -> (Arc<[Outbox<F>]>, Option<Outbox<F>>) {
        let mut members = self.lock();
        let one = id.and_then(|id| members.slots.get(id).cloned());
        let Members { slots, all } = &mut *members;
        let all = all.get_or_insert_with(|| slots.iter().map(|(_, outbox)| outbox.clone()).collect());
        (Arc::clone(all), one)
    }
}

impl<F: Clone> Room<F> {
    /// Pushes a frame to all members, and returns how many have taken it. Each member's
    /// [`SlowConsumer`](super::SlowConsumer) says what becomes of a frame for which it has no room: nobody is waited for.
    ///
    /// A push takes some 0.1 µs. After 256 members other tasks get their turn.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, which can only be among more than 256 members, some have the frame and others not.
    pub async fn send(&self, frame: F) -> usize {
        self.send_to(None, frame).await
    }

    /// The same for all members but the one with this number: [`Member::id`]. A number that no member has leaves nobody out.
    pub async fn send_except(&self, id: usize, frame: F) -> usize {
        self.send_to(Some(id), frame).await
    }

    async fn send_to(&self, except: Option<usize>, frame: F) -> usize {
        let (all, except) = self.all(except);
        let mut taken = 0;
        for (n, members) in all.chunks(MEMBERS_A_TURN).enumerate() {
            if n > 0 {
                yield_now().await;
            }
            taken += push_to(members, except.as_ref(), &frame);
        }
        taken
    }

    /// What [`Room::send`] does, without a pause: for functions that are not async, and rooms of some hundred members. Ten
    /// thousand would take about a millisecond, in which the thread does nothing else.
    pub fn push(&self, frame: F) -> usize {
        let (all, _) = self.all(None);
        push_to(&all, None, &frame)
    }

    /// What [`Room::send_except`] does, without a pause.
    pub fn push_except(&self, id: usize, frame: F) -> usize {
        let (all, except) = self.all(Some(id));
        push_to(&all, except.as_ref(), &frame)
    }
}

/// Under no lock of the room.
fn push_to<F: Clone>(members: &[Outbox<F>], except: Option<&Outbox<F>>, frame: &F) -> usize {
    let wanted = members.iter().filter(|member| !except.is_some_and(|one| one.is(member)));
    wanted.filter(|member| member.push(frame.clone()).is_ok()).count()
}

impl<F> Clone for Room<F> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<F> Default for Room<F> {
    fn default() -> Self {
        Self::new()
    }
}

impl<F> fmt::Debug for Room<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// An outbox that is in a room: dropped, it leaves.
#[must_use = "dropped, it leaves the room"]
pub struct Member<F> {
    id: usize,
    room: Room<F>,
}

impl<F> Member<F> {
    /// Its number in the room: for [`Room::send_except`]. It is used again when the member has left.
    pub fn id(&self) -> usize {
        self.id
    }
}

impl<F> Drop for Member<F> {
    fn drop(&mut self) {
        let mut members = self.room.lock();
        let gone = (members.slots.try_remove(self.id), members.all.take());
        drop(members);
        // Behind the lock, as above.
        drop(gone);
    }
}

impl<F> fmt::Debug for Member<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("id", &self.id).finish_non_exhaustive()
    }
}
