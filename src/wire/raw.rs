//! Raw bytes: sections of the stream without frames.

use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::wait::Want;
use super::{FrameState, Source, Wire};
use ropewalk_middleware::{Error, Result, SessionError};

/// The maximum size of a chunk of raw bytes.
const RAW_CHUNK: u64 = 64 * 1024;

impl Wire {
    /// Exactly `n` raw bytes. If the caller drops its future, no bytes have been taken.
    pub(crate) fn poll_raw(&mut self, n: u64, cx: &mut Context<'_>) -> Poll<Result<Bytes>> {
        self.check_live()?;
        loop {
            ready!(self.poll_turn(cx));
            if self.skipped() && self.input.len() as u64 >= n {
                return Poll::Ready(Ok(self.take_raw(n)));
            }
            ready!(self.poll_raw_input(n, cx))?;
        }
    }

    /// At least one, and at most `left`, of the next raw bytes.
    pub(crate) fn poll_raw_chunk(
        &mut self,
        left: u64,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Bytes>> {
        self.check_live()?;
        loop {
            ready!(self.poll_turn(cx));
            if self.skipped() && !self.input.is_empty() {
                return Poll::Ready(Ok(
                    self.take_raw(left.min(RAW_CHUNK).min(self.input.len() as u64))
                ));
            }
            ready!(self.poll_raw_input(left, cx))?;
        }
    }

    /// A request waits for its raw bytes, so they are read even in a drain, which has a deadline of
    /// its own.
    fn poll_raw_input(&mut self, wanted: u64, cx: &mut Context<'_>) -> Poll<Result> {
        if matches!(self.source, Source::Eof | Source::Ended) {
            let missing = self.skip.saturating_add(wanted).saturating_sub(self.input.len() as u64);
            self.source = Source::Ended;
            return Poll::Ready(Err(SessionError::Truncated { missing }.into()));
        }
        if !self.input.is_empty() {
            self.stats().excuse_first_frame();
        }
        // As before a frame: while a peer does not read its answers, its bytes are not read.
        ready!(self.poll_room(cx))?;
        self.poll_input(Want::Raw, cx)
    }

    fn take_raw(&mut self, n: u64) -> Bytes {
        // It fits, because no more is requested than is buffered.
        let bytes = self.input.take(usize::try_from(n).unwrap_or(usize::MAX));
        self.stats().excuse_first_frame();
        self.place = FrameState::Boundary;
        self.wait.done();
        // The session may wait for something else before it reads more.
        self.settle();
        self.look_again();
        bytes
    }

    /// Discards the next `n` bytes.
    pub(crate) fn skip(&mut self, n: u64) {
        // An earlier section may not have arrived completely.
        self.skip = self.skip.saturating_add(n);
        self.look_again();
    }

    /// Discards skipped raw bytes; true when all are discarded.
    #[inline]
    pub(super) fn skipped(&mut self) -> bool {
        self.skip == 0 || self.skip_raw()
    }

    #[cold]
    fn skip_raw(&mut self) -> bool {
        self.skip -= self.input.skip(self.skip);
        self.stats().excuse_first_frame();
        self.look_again();
        self.skip == 0
    }

    /// The error if no more bytes will be read while skipped raw bytes are missing.
    pub(super) fn cut_short(&mut self) -> Option<Error> {
        let cut = self.source == Source::Eof;
        if self.source != Source::Open {
            self.source = Source::Ended;
        }
        cut.then(|| SessionError::Truncated { missing: self.skip }.into())
    }
}
