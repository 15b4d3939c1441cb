//! Collects the frames of an answer, and separates those that belong to no answer.

use std::sync::Arc;

/// The position of a frame in an answer: see [`Client::answers`](super::Client::answers).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The last frame of an answer, or the only one.
    Last,
    /// More frames of this answer follow.
    More,
    /// It belongs to no answer: the server has pushed it.
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

/// Collects the frames of the answers on one connection. Sealed.
#[allow(unreachable_pub)] // sealed
pub trait Gather<Item>: Send + 'static {
    type Answer: Send + 'static;
    fn part(&mut self, frame: &Item) -> Part;
    /// Notes a push. `at` is the offset in the stream after it.
    fn pass(&mut self, _: u64) {}
    /// Adds a frame that is not a push. `at` is the offset in the stream after it. Returns the
    /// answer if this was its last frame; an error if the answer exceeds its limits.
    fn add(&mut self, frame: Item, part: Part, at: u64) -> Result<Option<Self::Answer>, OverMax>;
}

/// An answer exceeds its limits.
#[derive(Debug)]
#[allow(unreachable_pub)] // used in a sealed trait
pub struct OverMax;

/// Each answer is one frame.
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

/// Each answer is one frame; frames for which `F` returns true are pushes.
#[allow(missing_debug_implementations)] // it holds a function
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

/// Each answer is several frames; `F` classifies each frame.
#[allow(missing_debug_implementations)] // it holds a function
pub struct Many<F>(pub(super) Arc<F>, pub(super) MaxAnswer);

impl<F> Clone for Many<F> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0), self.1)
    }
}

/// The answer whose frames are arriving.
#[allow(unreachable_pub, missing_debug_implementations)] // it implements a sealed trait
pub struct Gathering<Item, F> {
    many: Many<F>,
    frames: Vec<Item>,
    /// The offset in the stream at which the first of these frames began: the end of the frame
    /// before it.
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

/// Makes the [`Gather`] of a connection: implemented by [`One`], [`OneOrPush`] and [`Many`].
/// Sealed.
#[allow(unreachable_pub)] // sealed
pub trait Gathers<Item>: Clone + Send + Sync + 'static {
    type Answer: Send + 'static;
    type Gather: Gather<Item, Answer = Self::Answer>;
    /// `at` is the offset of the connection's stream after the preparation.
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

/// Takes the frames that belong to no answer. Sealed.
#[allow(unreachable_pub)] // sealed
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
#[allow(missing_debug_implementations)] // it holds a function
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
