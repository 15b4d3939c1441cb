//! Raw bytes: sections of the stream that are no frames.

use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::wait::Want;
use super::{Place, Source, Wire};
use crate::error::{Error, Result, SessionError};

/// The most one chunk of raw bytes holds.
const RAW_CHUNK: u64 = 64 * 1024;

impl Wire {
    /// Exactly `n` raw bytes. A caller who goes away has taken none.
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

    /// Some of the next `left` raw bytes, at least one.
    pub(crate) fn poll_raw_chunk(&mut self, left: u64, cx: &mut Context<'_>) -> Poll<Result<Bytes>> {
        self.check_live()?;
        loop {
            ready!(self.poll_turn(cx));
            if self.skipped() && !self.input.is_empty() {
                return Poll::Ready(Ok(self.take_raw(left.min(RAW_CHUNK).min(self.input.len() as u64))));
            }
            ready!(self.poll_raw_input(left, cx))?;
        }
    }

    /// Raw bytes are what a request is waiting for, so a drain lets them come; it has its deadline.
    fn poll_raw_input(&mut self, wanted: u64, cx: &mut Context<'_>) -> Poll<Result> {
        if matches!(self.source, Source::Eof | Source::Ended) {
            let missing = self.skip.saturating_add(wanted).saturating_sub(self.input.len() as u64);
            self.source = Source::Ended;
            return Poll::Ready(Err(SessionError::Truncated { missing }.into()));
        }
        if !self.input.is_empty() {
            self.stats().excuse_first_frame();
        }
        // As before a frame: a peer that does not read is not read from.
        ready!(self.poll_room(cx))?;
        self.poll_input(Want::Raw, cx)
    }

    fn take_raw(&mut self, n: u64) -> Bytes {
        // It fits: no more than what is buffered is asked for.
        let bytes = self.input.take(usize::try_from(n).unwrap_or(usize::MAX));
        self.stats().excuse_first_frame();
        self.place = Place::Boundary;
        self.wait.done();
        // The author may wait for something else before more is read.
        self.settle();
        self.look_again();
        bytes
    }

    /// The next `n` bytes are of no interest.
    pub(crate) fn skip(&mut self, n: u64) {
        // An earlier section may still be on its way.
        self.skip = self.skip.saturating_add(n);
        self.look_again();
    }

    /// Discards raw bytes nobody wants; true when there are none left.
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

    /// When nothing more will be read, and raw bytes that nobody wants are missing still: the error.
    pub(super) fn cut_short(&mut self) -> Option<Error> {
        let cut = self.source == Source::Eof;
        if self.source != Source::Open {
            self.source = Source::Ended;
        }
        cut.then(|| SessionError::Truncated { missing: self.skip }.into())
    }
}
