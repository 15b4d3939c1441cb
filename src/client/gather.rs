//! How many frames an answer has, and which frames belong to no answer.

use std::sync::Arc;

/// The part of a frame in an answer: see [`Client::answers`](super::Client::answers).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The last frame of an answer, or the only one.
    Last,
    /// More frames of this answer follow.
    More,
    /// It belongs to no answer: the server has sent it unasked.
    Push,
}

/// The limits of an answer of many frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct MaxAnswer {
    pub(super) frames: usize,
    pub(super) bytes: u64,
}

impl Default for MaxAnswer {
    fn default() -> Self {
        Self { frames: 64 * 1024, bytes: 16 * 1024 * 1024 }
    }
}

/// Makes an answer of frames. Sealed.
#[allow(unreachable_pub)]
pub trait Gather<Item>: Send + 'static {
    type Answer: Send + 'static;
    fn part(&mut self, frame: &Item) -> Part;
    /// Passes over a push, which leaves the connection's stream at that byte.
    fn pass(&mut self, _: u64) {}
    /// Adds a frame that is no push, which leaves the connection's stream at that byte. The answer,
    /// if it was its last one; `Err` if it is over its bounds.
    fn add(&mut self, frame: Item, part: Part, at: u64) -> Result<Option<Self::Answer>, OverMax>;
}

/// An answer is over its bounds.
#[derive(Debug)]
#[allow(unreachable_pub)]
pub struct OverMax;

/// An answer is a frame.
#[derive(Clone, Copy, Debug, Default)]
pub struct One(());

impl<Item: Send + 'static> Gather<Item> for One {
    type Answer = Item;

    #[inline(always)]
    fn part(&mut self, _: &Item) -> Part {
        Part::Last
    }

    #[inline(always)]
    fn add(&mut self, frame: Item, _: Part, _: u64) -> Result<Option<Item>, OverMax> {
        Ok(Some(frame))
    }
}

/// An answer is a frame, unless `F` says that it is a push.
#[allow(missing_debug_implementations)]
pub struct OneOrPush<F>(pub(super) Arc<F>);

impl<F> Clone for OneOrPush<F> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<Item, F> Gather<Item> for OneOrPush<F>
where
    Item: Send + 'static,
    F: Fn(&Item) -> bool + Send + Sync + 'static,
{
    type Answer = Item;

    fn part(&mut self, frame: &Item) -> Part {
        if (self.0)(frame) { Part::Push } else { Part::Last }
    }

    fn add(&mut self, frame: Item, _: Part, _: u64) -> Result<Option<Item>, OverMax> {
        Ok(Some(frame))
    }
}

/// An answer is all frames up to the last one of it, as `F` tells.
#[allow(missing_debug_implementations)]
pub struct Many<F>(pub(super) Arc<F>, pub(super) MaxAnswer);

impl<F> Clone for Many<F> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0), self.1)
    }
}

/// An answer as it comes.
#[allow(unreachable_pub, missing_debug_implementations)]
pub struct Gathering<Item, F> {
    many: Many<F>,
    frames: Vec<Item>,
    /// At which byte the first of these began; known from the frame before.
    began: u64,
}

impl<Item, F> Gather<Item> for Gathering<Item, F>
where
    Item: Send + 'static,
    F: Fn(&Item) -> Part + Send + Sync + 'static,
{
    type Answer = Vec<Item>;

    fn part(&mut self, frame: &Item) -> Part {
        (self.many.0)(frame)
    }

    fn pass(&mut self, at: u64) {
        if self.frames.is_empty() {
            self.began = at;
        }
    }

    fn add(&mut self, frame: Item, part: Part, at: u64) -> Result<Option<Vec<Item>>, OverMax> {
        let MaxAnswer { frames, bytes } = self.many.1;
        if self.frames.len() >= frames || at - self.began > bytes {
            return Err(OverMax);
        }
        self.frames.push(frame);
        if part == Part::More {
            return Ok(None);
        }
        self.began = at;
        Ok(Some(std::mem::take(&mut self.frames)))
    }
}

/// What [`One`], [`OneOrPush`] and [`Many`] make of the frames of one connection. Sealed.
#[allow(unreachable_pub)]
pub trait Gathers<Item>: Clone + Send + Sync + 'static {
    type Answer: Send + 'static;
    type Gather: Gather<Item, Answer = Self::Answer>;
    /// For a connection whose stream is at this byte.
    fn begin(&self, at: u64) -> Self::Gather;
}

impl<Item: Send + 'static> Gathers<Item> for One {
    type Answer = Item;
    type Gather = Self;

    fn begin(&self, _: u64) -> Self {
        *self
    }
}

impl<Item, F> Gathers<Item> for OneOrPush<F>
where
    Item: Send + 'static,
    F: Fn(&Item) -> bool + Send + Sync + 'static,
{
    type Answer = Item;
    type Gather = Self;

    fn begin(&self, _: u64) -> Self {
        self.clone()
    }
}

impl<Item, F> Gathers<Item> for Many<F>
where
    Item: Send + 'static,
    F: Fn(&Item) -> Part + Send + Sync + 'static,
{
    type Answer = Vec<Item>;
    type Gather = Gathering<Item, F>;

    fn begin(&self, at: u64) -> Gathering<Item, F> {
        Gathering { many: self.clone(), frames: Vec::new(), began: at }
    }
}

/// Takes the frames that answer nothing. Sealed.
#[allow(unreachable_pub)]
pub trait TakePush<Item>: Clone + Send + Sync + 'static {
    fn push(&self, frame: Item);
}

/// Pushes are dropped.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPushes(());

impl<Item> TakePush<Item> for NoPushes {
    fn push(&self, _: Item) {}
}

/// Pushes are passed to a function.
#[allow(missing_debug_implementations)]
pub struct OnPush<F>(pub(super) Arc<F>);

impl<F> Clone for OnPush<F> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<Item, F: Fn(Item) + Send + Sync + 'static> TakePush<Item> for OnPush<F> {
    fn push(&self, frame: Item) {
        (self.0)(frame);
    }
}
