//! Several pending calls, and which of them were woken.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use pin_project::pin_project;

/// Calls in one block, which has one waker. More would cost memory when two calls are under way;
/// fewer would cost wakers when many are.
const SLOTS: usize = 4;
/// Calls in one allocation. An allocator has lists of small pieces (glibc's up to 1 KiB); a larger
/// one costs it more than all the calls in it.
const TOGETHER: usize = 2;

/// Calls under way, each in a place that is reused.
///
/// When a call is woken, all calls of its block are polled, which costs less than a waker for each.
pub(super) struct CallBlocks<F> {
    blocks: Vec<Block<F>>,
    /// Places without a call, as `block * SLOTS + slot`.
    vacant: Vec<usize>,
    /// A bit for each block that was woken; blocks whose numbers differ by 64 share a bit.
    woken: Arc<AtomicU64>,
    /// The task's waker, which the blocks wake.
    task: Waker,
}

struct Block<F> {
    calls: [Pin<Box<Two<F>>>; SLOTS / TOGETHER],
    /// The number that each call was given.
    numbers: [usize; SLOTS],
    waker: Waker,
}

impl<F: Future> Block<F> {
    /// Polls one of its calls, if it is under way.
    #[inline]
    fn poll(&mut self, n: usize) -> Poll<F::Output> {
        let cx = &mut Context::from_waker(&self.waker);
        let two = self.calls[n / TOGETHER].as_mut().project();
        let mut slot = if n.is_multiple_of(TOGETHER) { two.a } else { two.b };
        let Some(call) = slot.as_mut().as_pin_mut() else { return Poll::Pending };
        let polled = call.poll(cx);
        if polled.is_ready() {
            slot.set(None);
        }
        polled
    }
}

impl<F> Block<F> {
    fn slot(&mut self, n: usize) -> Pin<&mut Option<F>> {
        let two = self.calls[n / TOGETHER].as_mut().project();
        if n.is_multiple_of(TOGETHER) { two.a } else { two.b }
    }
}

/// Fields with names, because safe code can't pin the elements of an array.
#[pin_project]
struct Two<F> {
    #[pin]
    a: Option<F>,
    #[pin]
    b: Option<F>,
}

impl<F> Two<F> {
    // Not a constant, all bytes of which would be written.
    fn empty() -> Pin<Box<Self>> {
        Box::pin(Self { a: None, b: None })
    }
}

impl<F: Future> CallBlocks<F> {
    /// Makes no allocation until there is a call.
    pub(super) fn new(cx: &Context<'_>) -> Self {
        Self {
            blocks: Vec::new(),
            vacant: Vec::new(),
            woken: Arc::default(),
            task: cx.waker().clone(),
        }
    }

    /// Polls a call, and keeps it under this number if it is pending.
    pub(super) fn poll_call(
        &mut self,
        call: F,
        number: usize,
        cx: &Context<'_>,
    ) -> Poll<F::Output> {
        self.know(cx.waker());
        let place = self.vacant.pop().unwrap_or_else(|| self.grow());
        let block = &mut self.blocks[place / SLOTS];
        block.numbers[place % SLOTS] = number;
        block.slot(place % SLOTS).set(Some(call));
        let polled = block.poll(place % SLOTS);
        if polled.is_ready() {
            self.vacant.push(place);
        }
        polled
    }

    /// Polls the calls that were woken. Passes on their results with their numbers.
    pub(super) fn poll_woken(&mut self, cx: &Context<'_>, mut done: impl FnMut(usize, F::Output)) {
        self.know(cx.waker());
        let mut woken = self.woken.swap(0, Ordering::AcqRel);
        while woken != 0 {
            let first = woken.trailing_zeros() as usize;
            woken &= woken - 1;
            for at in (first..self.blocks.len()).step_by(64) {
                let block = &mut self.blocks[at];
                for n in 0..SLOTS {
                    if let Poll::Ready(output) = block.poll(n) {
                        self.vacant.push(at * SLOTS + n);
                        done(block.numbers[n], output);
                    }
                }
            }
        }
    }

    /// Adds a block, and takes its first place.
    #[cold]
    fn grow(&mut self) -> usize {
        let at = self.blocks.len();
        let waker = self.waker(at);
        let calls = [Two::empty(), Two::empty()];
        self.blocks.push(Block { calls, numbers: [0; SLOTS], waker });
        self.vacant.extend((at * SLOTS + 1..(at + 1) * SLOTS).rev());
        at * SLOTS
    }

    /// Makes the calls wake this task.
    fn know(&mut self, task: &Waker) {
        if !self.task.will_wake(task) {
            self.move_to(task);
        }
    }

    /// Another task polls the connection from here on. Each call is polled once more, to register
    /// the new waker.
    #[cold]
    fn move_to(&mut self, task: &Waker) {
        self.task.clone_from(task);
        // New bits: calls may still hold wakers of the old task, which must not set the first bit
        // here.
        self.woken = Arc::new(AtomicU64::new(u64::MAX));
        for at in 0..self.blocks.len() {
            self.blocks[at].waker = self.waker(at);
        }
    }

    fn waker(&self, at: usize) -> Waker {
        Waker::from(Arc::new(BlockWaker {
            bit: 1 << (at % 64),
            blocks: Arc::clone(&self.woken),
            task: self.task.clone(),
        }))
    }
}

/// The waker of one block.
struct BlockWaker {
    bit: u64,
    blocks: Arc<AtomicU64>,
    task: Waker,
}

impl Wake for BlockWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // The call that set the first bit has woken the task, which takes all bits together.
        if self.blocks.fetch_or(self.bit, Ordering::AcqRel) == 0 {
            self.task.wake_by_ref();
        }
    }
}
