//! Sets of outboxes that are pushed to together.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use slab::Slab;
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::coop::consume_budget;

use super::Outbox;

/// After this many members, `send` consumes a unit of the budget that tokio gives a task for its
/// turn.
///
/// It doesn't yield at each: the members would write what they have, and a burst of lines would
/// cost each of them a write for every line.
const MEMBERS_A_UNIT: usize = 1024;

/// How many members are looked at before the frame is pushed to the first of them. The processor
/// fetches the memory of all of them at the same time then; a push, which is a few locked
/// instructions, has it wait for that of each.
const AHEAD: usize = 16;

/// A set of outboxes of many connections: a frame sent to a room is pushed to each of its members.
/// Cheap to clone, and all clones are the same room.
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
/// Each member receives the frames of one sender in their order. When two senders send at once,
/// members may receive their frames in different orders; [`Room::send_in_order`] gives all of them
/// one order. A frame is cloned and encoded for each member: send large data as `Bytes` or an
/// `Arc`, and encode frames that are costly to encode once, for outboxes made by
/// [`Session::outbox_raw`](crate::Session::outbox_raw).
pub struct Room<F>(Arc<RoomShared<F>>);

struct RoomShared<F> {
    members: Mutex<Members<F>>,
    /// Held by the sender whose turn it is, among those that keep a common order.
    turn: AsyncMutex<()>,
}

struct Members<F> {
    slots: Slab<Outbox<F>>,
    /// All outboxes, for sending: made again by the first send after a change.
    all: Option<Arc<[Outbox<F>]>>,
}

impl<F> Room<F> {
    /// A room without members.
    pub fn new() -> Self {
        let members = Mutex::new(Members { slots: Slab::new(), all: None });
        Self(Arc::new(RoomShared { members, turn: AsyncMutex::new(()) }))
    }

    fn lock(&self) -> MutexGuard<'_, Members<F>> {
        // No user code runs while it is held, so its data is consistent even after a panic.
        self.0.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an outbox, until the returned member is dropped.
    pub fn join(&self, outbox: Outbox<F>) -> Member<F> {
        let mut members = self.lock();
        let all = members.all.take();
        let id = members.slots.insert(outbox);
        drop(members);
        // Dropped after the lock is released: it may own the last reference to an outbox, and
        // dropping that drops frames.
        drop(all);
        Member { id, room: self.clone() }
    }

    /// The number of members.
    pub fn len(&self) -> usize {
        self.lock().slots.len()
    }

    /// Whether the room has no members.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The outboxes of all members, in no particular order.
    pub fn members(&self) -> Vec<Outbox<F>> {
        self.all(None).0.to_vec()
    }

    /// All members, and the member with the number `id`.
    fn all(&self, id: Option<usize>) -> (Arc<[Outbox<F>]>, Option<Outbox<F>>) {
        let mut members = self.lock();
        let one = id.and_then(|id| members.slots.get(id).cloned());
        let Members { slots, all } = &mut *members;
        let all =
            all.get_or_insert_with(|| slots.iter().map(|(_, outbox)| outbox.clone()).collect());
        (Arc::clone(all), one)
    }
}

impl<F: Clone> Room<F> {
    /// Pushes a frame to all members, and returns how many have accepted it. It waits for no
    /// member: each member's [`SlowConsumer`](super::SlowConsumer) determines what happens to a
    /// frame when its outbox is full.
    ///
    /// After every 1024 members it consumes a unit of the budget that tokio gives a task for its
    /// turn, and yields to other tasks when the budget is used up.
    ///
    /// # Cancel safety
    ///
    /// If it is dropped before it is ready, which is possible only with more than 1024 members,
    /// some members have the frame and others don't.
    pub async fn send(&self, frame: F) -> usize {
        self.send_to(None, frame).await
    }

    /// Does the same as [`Room::send`] for all members but the one with this [`Member::id`]. If no
    /// member has this number, all get the frame.
    pub async fn send_except(&self, id: usize, frame: F) -> usize {
        self.send_to(Some(id), frame).await
    }

    /// Does the same as [`Room::send`], but one sender after another: all members receive the
    /// frames that are sent in this way in one common order, in which the senders have called it.
    /// It waits for the senders before it, and not for any peer. Frames that are sent in another
    /// way have no place in this order.
    ///
    /// # Cancel safety
    ///
    /// As [`Room::send`]; the common order is kept.
    pub async fn send_in_order(&self, frame: F) -> usize {
        let _turn = self.0.turn.lock().await;
        self.send_to(None, frame).await
    }

    /// Does the same as [`Room::send_in_order`] for all members but the one with this
    /// [`Member::id`].
    pub async fn send_in_order_except(&self, id: usize, frame: F) -> usize {
        let _turn = self.0.turn.lock().await;
        self.send_to(Some(id), frame).await
    }

    async fn send_to(&self, except: Option<usize>, frame: F) -> usize {
        let (all, except) = self.all(except);
        let mut taken = 0;
        for (n, members) in all.chunks(MEMBERS_A_UNIT).enumerate() {
            if n > 0 {
                consume_budget().await;
            }
            taken += push_to(members, except.as_ref(), &frame);
        }
        taken
    }

    /// Does the same as [`Room::send`] without yielding: for functions that are not async, and for
    /// rooms of a few hundred members. The thread runs no other task until all members have the
    /// frame.
    pub fn push(&self, frame: F) -> usize {
        let (all, _) = self.all(None);
        push_to(&all, None, &frame)
    }

    /// Does the same as [`Room::send_except`] without yielding.
    pub fn push_except(&self, id: usize, frame: F) -> usize {
        let (all, except) = self.all(Some(id));
        push_to(&all, except.as_ref(), &frame)
    }
}

/// Runs without the room's lock.
fn push_to<F: Clone>(members: &[Outbox<F>], except: Option<&Outbox<F>>, frame: &F) -> usize {
    let mut accepted = 0;
    for members in members.chunks(AHEAD) {
        let gone = members.iter().filter(|member| member.is_gone()).count();
        if gone == members.len() {
            continue;
        }
        let wanted = members.iter().filter(|member| !except.is_some_and(|one| one.is(member)));
        accepted += wanted.filter(|member| member.push(frame.clone()).is_ok()).count();
    }
    accepted
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

/// An outbox that is in a room. Dropping it leaves the room.
#[must_use = "dropping it leaves the room"]
pub struct Member<F> {
    id: usize,
    room: Room<F>,
}

impl<F> Member<F> {
    /// Its number in the room, for [`Room::send_except`]. It is reused after the member has left.
    pub fn id(&self) -> usize {
        self.id
    }
}

impl<F> Drop for Member<F> {
    fn drop(&mut self) {
        let mut members = self.room.lock();
        let gone = (members.slots.try_remove(self.id), members.all.take());
        drop(members);
        // Dropped after the lock is released, as above.
        drop(gone);
    }
}

impl<F> fmt::Debug for Member<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("id", &self.id).finish_non_exhaustive()
    }
}
