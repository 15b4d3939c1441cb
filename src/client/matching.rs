//! Finds the call to which an answer belongs.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use tokio::time::Instant;

/// A call whose request is encoded. Only the connection's task has it, so it needs no lock.
#[derive(Debug)]
#[allow(unreachable_pub)] // used in a sealed trait
pub struct Out {
    /// The key of its entry in the table; `None` once it has failed with a timeout.
    pub(super) key: Option<usize>,
    /// The offset in the connection's output at which its request begins.
    pub(super) start: u64,
    pub(super) since: Instant,
}

/// Finds the call that an answer belongs to: the next one, or the one with its tag. Sealed.
#[allow(unreachable_pub)] // sealed
pub trait Match<Req, Item>: Send + 'static {
    type Id: Copy + Send;
    /// Assigns an id to a request. `None` if another call has this id.
    fn assign(&mut self, req: &mut Req) -> Option<Self::Id>;
    fn sent(&mut self, id: Self::Id, out: Out);
    /// Finds the call that a frame answers.
    fn find(&mut self, frame: &Item) -> Whose<Self::Id>;
    /// Removes and returns a call whose answer is complete.
    fn done(&mut self, id: Self::Id) -> Option<Out>;
    /// Calls `f` with each call, the oldest first, until it returns false.
    fn each_from_oldest(&mut self, f: &mut dyn FnMut(&mut Out) -> bool);
    fn drain(&mut self) -> Vec<Out>;
    fn len(&self) -> usize;
}

/// The call that a frame belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(unreachable_pub)] // used in a sealed trait
pub enum Whose<I> {
    Call(I),
    /// A push, which answers no call.
    Push,
    /// An answer to a call that was never made, or is answered already.
    Nobody,
}

/// Matches the n-th answer to the n-th call.
#[derive(Default)]
#[allow(unreachable_pub, missing_debug_implementations)] // it implements a sealed trait
pub struct Fifo(VecDeque<Out>);

impl<Req, Item> Match<Req, Item> for Fifo {
    type Id = ();

    fn assign(&mut self, _: &mut Req) -> Option<()> {
        Some(())
    }

    fn sent(&mut self, (): (), out: Out) {
        self.0.push_back(out);
    }

    fn find(&mut self, _: &Item) -> Whose<()> {
        if self.0.is_empty() { Whose::Nobody } else { Whose::Call(()) }
    }

    fn done(&mut self, (): ()) -> Option<Out> {
        self.0.pop_front()
    }

    fn each_from_oldest(&mut self, f: &mut dyn FnMut(&mut Out) -> bool) {
        let _ = self.0.iter_mut().all(f);
    }

    fn drain(&mut self) -> Vec<Out> {
        self.0.drain(..).collect()
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

/// The ids by which a protocol marks the answer to a request (DNS, memcached's binary protocol,
/// most RPC).
///
/// ```
/// use ropewalk::client::Tag;
///
/// #[derive(Clone, Default)]
/// struct Numbers(u16);
///
/// /// Messages that begin with their number.
/// impl Tag<(u16, String), (u16, String)> for Numbers {
///     type Id = u16;
///
///     fn assign(&mut self, request: &mut (u16, String), taken: &dyn Fn(&u16) -> bool) -> u16 {
///         while taken(&self.0) {
///             self.0 = self.0.wrapping_add(1);
///         }
///         request.0 = self.0;
///         self.0 = self.0.wrapping_add(1);
///         request.0
///     }
///
///     fn finish(&mut self, answer: &(u16, String)) -> Option<u16> {
///         Some(answer.0)
///     }
/// }
/// ```
pub trait Tag<Req, Item> {
    /// The type of the id. It must have more values than calls may be [in
    /// flight](super::Client::in_flight).
    type Id: Copy + Eq + Hash;

    /// Writes an id into the request, and returns it. The call fails if the id is `taken`. An id is
    /// free again only when its answer has arrived, even if its caller is gone.
    fn assign(&mut self, request: &mut Req, taken: &dyn Fn(&Self::Id) -> bool) -> Self::Id;

    /// The id of an answer, or `None` for a frame that belongs to no call (a push). An id that no
    /// sent call has breaks the protocol.
    fn finish(&mut self, frame: &Item) -> Option<Self::Id>;
}

/// Matches answers to calls by their ids, in any order.
#[allow(unreachable_pub, missing_debug_implementations)] // it implements a sealed trait
pub struct ByTag<T, I> {
    tag: T,
    /// The sent calls by their ids, each with its number.
    out: HashMap<I, (u64, Out)>,
    /// Numbers and ids in the order of sending. Answered calls stay in it for a while.
    ages: VecDeque<(u64, I)>,
    next: u64,
}

impl<T, I> ByTag<T, I> {
    pub(super) fn new(tag: T) -> Self {
        Self { tag, out: HashMap::new(), ages: VecDeque::new(), next: 0 }
    }
}

impl<Req, Item, T> Match<Req, Item> for ByTag<T, T::Id>
where
    T: Tag<Req, Item, Id: Send + 'static> + Send + 'static,
{
    type Id = T::Id;

    fn assign(&mut self, req: &mut Req) -> Option<T::Id> {
        let Self { tag, out, .. } = self;
        let id = tag.assign(req, &|id| out.contains_key(id));
        (!out.contains_key(&id)).then_some(id)
    }

    fn sent(&mut self, id: T::Id, out: Out) {
        self.next += 1;
        self.ages.push_back((self.next, id));
        self.out.insert(id, (self.next, out));
        if self.ages.len() > 2 * self.out.len() + 64 {
            let Self { out, ages, .. } = self;
            ages.retain(|(number, id)| out.get(id).is_some_and(|out| out.0 == *number));
        }
    }

    fn find(&mut self, frame: &Item) -> Whose<T::Id> {
        match self.tag.finish(frame) {
            None => Whose::Push,
            Some(id) if self.out.contains_key(&id) => Whose::Call(id),
            Some(_) => Whose::Nobody,
        }
    }

    fn done(&mut self, id: T::Id) -> Option<Out> {
        Some(self.out.remove(&id)?.1)
    }

    fn each_from_oldest(&mut self, f: &mut dyn FnMut(&mut Out) -> bool) {
        let Self { out, ages, .. } = self;
        let is_out = |out: &HashMap<T::Id, (u64, Out)>, (number, id): &(u64, T::Id)| {
            out.get(id).is_some_and(|out| out.0 == *number)
        };
        while ages.front().is_some_and(|front| !is_out(out, front)) {
            ages.pop_front();
        }
        for (number, id) in ages {
            if let Some((_, out)) = out.get_mut(id).filter(|out| out.0 == *number)
                && !f(out)
            {
                return;
            }
        }
    }

    fn drain(&mut self) -> Vec<Out> {
        let Self { out, ages, .. } = self;
        // The oldest first. An id may be in it several times; only the entry with the number of the
        // sent call counts.
        let mut take = |(number, id): (u64, T::Id)| {
            let is_out = out.get(&id).is_some_and(|out| out.0 == number);
            is_out.then(|| out.remove(&id)).flatten().map(|(_, out)| out)
        };
        ages.drain(..).filter_map(&mut take).collect()
    }

    fn len(&self) -> usize {
        self.out.len()
    }
}
