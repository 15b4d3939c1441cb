//! How many calls of one connection run at once, and in which order their answers come.

use std::future::Future;

use super::calls::{Calls, OneAtATime, Ordered, Unordered};

/// One call at a time: the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct InOrder;

/// Several calls at once, answers in the order of the frames.
#[derive(Clone, Copy, Debug)]
pub struct Concurrent(pub(crate) usize);

/// Several calls at once, each answer when it is ready: for protocols whose frames carry tags.
#[derive(Clone, Copy, Debug)]
pub struct AsReady(pub(crate) usize);

/// The order of answers: one of the three above.
pub trait Order: sealed::Sealed {}

impl<T: sealed::Sealed> Order for T {}

mod sealed {
    use super::{AsReady, Calls, Concurrent, Future, InOrder, OneAtATime, Ordered, Unordered};

    #[allow(unreachable_pub)] // sealed: it can't be named or implemented outside
    pub trait Sealed {
        type Calls<F: Future>: Calls<F>;

        fn calls<F: Future>(&self) -> Self::Calls<F>;
    }

    impl Sealed for InOrder {
        type Calls<F: Future> = OneAtATime<F>;

        fn calls<F: Future>(&self) -> OneAtATime<F> {
            OneAtATime::new()
        }
    }

    impl Sealed for Concurrent {
        type Calls<F: Future> = Ordered<F>;

        fn calls<F: Future>(&self) -> Ordered<F> {
            Ordered::new(self.0.max(1))
        }
    }

    impl Sealed for AsReady {
        type Calls<F: Future> = Unordered<F>;

        fn calls<F: Future>(&self) -> Unordered<F> {
            Unordered::new(self.0.max(1))
        }
    }
}
