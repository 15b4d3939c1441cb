//! A connection's bytes on their way to becoming frames, and back: what sessions and dispatch both stand on.
//!
//! One read, all its frames, one write: [`Wire::decode`] hands out what has been read; when it runs dry,
//! [`Wire::poll_more`] first writes what was answered and then reads again.

mod finish;
mod input;
mod limits;
mod output;
mod scratch;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use ropewalk_middleware::{Closing, Connection, Stats};
use tokio_util::codec::{Decoder, Encoder};

pub(crate) use self::limits::Limits;

use self::input::Input;
use self::output::Output;
use crate::error::{BoxError, Error, Result, SessionError};

/// Frames handed out in one turn before other connections get theirs.
const FRAMES_A_TURN: u32 = 256;
/// How much is read ahead of a pending call or a pending write: one buffer.
const READ_AHEAD: usize = 64 * 1024;
/// The most one chunk of raw bytes holds.
const RAW_CHUNK: u64 = 64 * 1024;
/// What a draining connection still reads of what had arrived; as much as a kernel buffers.
const DRAIN_BYTES: usize = 8 * 1024 * 1024;

/// Whether more frames can come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The peer may send more.
    Open,
    /// The peer has closed its side; what was read is still to be decoded.
    Eof,
    /// No more is read, for the connection drains; what was read is still to be decoded.
    Shut,
    /// Nothing more comes: end of stream, a fatal error, or drained.
    Ended,
}

/// A connection with its buffers.
#[derive(Debug)]
pub(crate) struct Wire {
    connection: Connection,
    closing: Closing,
    stats: Stats,
    input: Input,
    output: Output,
    limits: Limits,
    source: Source,
    /// The peer has closed its side.
    peer_closed: bool,
    /// The codec has seen all of `input` and wants more.
    dry: bool,
    /// The codec has been shown a part of a frame.
    mid_frame: bool,
    /// Raw bytes nobody wants: discarded as they come.
    skip: u64,
    turn: u32,
    drain: Option<Drain>,
}

/// A drain under way: everything that had arrived when it began is still read.
struct Drain {
    /// Lets the runtime look at the sockets once more, so that "nothing to read" is true and not merely not yet known.
    yielded: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    left: usize,
}

impl Drain {
    fn new() -> Self {
        Self { yielded: Some(Box::pin(tokio::task::yield_now())), left: DRAIN_BYTES }
    }
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain").field("left", &self.left).finish_non_exhaustive()
    }
}

impl Wire {
    pub(crate) fn new(connection: Connection, limits: Limits) -> Self {
        Self {
            closing: connection.closing(),
            stats: connection.stats(),
            connection,
            input: Input::default(),
            output: Output::default(),
            limits,
            source: Source::Open,
            peer_closed: false,
            dry: true,
            mid_frame: false,
            skip: 0,
            turn: 0,
            drain: None,
        }
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(crate) fn closing(&self) -> &Closing {
        &self.closing
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether nothing more will be decoded.
    pub(crate) fn has_ended(&self) -> bool {
        self.source == Source::Ended
    }

    /// Whether the codec stands between two frames.
    pub(crate) fn at_boundary(&self) -> bool {
        !self.mid_frame
    }

    /// Another codec is to look at what was read.
    pub(crate) fn look_again(&mut self) {
        self.dry = self.input.is_empty() && self.source == Source::Open;
    }

    /// The next frame of what has been read; `None` when more is needed, or when nothing more comes.
    pub(crate) fn decode<C>(&mut self, codec: &mut C) -> Option<Result<C::Item>>
    where
        C: Decoder<Error: Into<BoxError>>,
    {
        if self.dry || self.source == Source::Ended || !self.skipped() {
            return None;
        }
        let before = self.input.len();
        let result = match self.source {
            // Not shown an empty buffer: that is no part of a frame.
            _ if before > 0 || self.mid_frame => codec.decode(self.input.buf()),
            _ => Ok(None),
        };
        let result = match result {
            Ok(None) if self.source == Source::Eof => self.decode_eof(codec),
            other => other,
        };
        match result {
            Ok(Some(frame)) => {
                self.mid_frame = false;
                self.turn += 1;
                self.stats.add_frames_in(1);
                Some(Ok(frame))
            }
            Ok(None) => {
                if self.source == Source::Shut {
                    self.source = Source::Ended;
                }
                self.dry = true;
                self.mid_frame |= before > 0;
                None
            }
            Err(error) => Some(Err(self.decode_failed(error))),
        }
    }

    fn decode_eof<C: Decoder>(&mut self, codec: &mut C) -> Result<Option<C::Item>, C::Error> {
        let result = codec.decode_eof(self.input.buf());
        if !matches!(result, Ok(Some(_))) {
            self.source = Source::Ended;
        }
        result
    }

    fn decode_failed(&mut self, error: impl Into<BoxError>) -> Error {
        let error = Error::codec(error);
        // A line that is too long may still have its end to come; other refused frames were whole.
        self.mid_frame = error.is_too_long();
        self.turn += 1;
        if !error.is_recoverable() {
            self.source = Source::Ended;
        }
        error
    }

    /// Discards raw bytes nobody wants; true when there are none left.
    fn skipped(&mut self) -> bool {
        if self.skip > 0 {
            self.skip -= self.input.skip(self.skip);
            self.dry = self.input.is_empty();
        }
        self.skip == 0
    }

    /// Encodes a frame behind those that wait to be written. On error nothing of it was.
    pub(crate) fn encode<C, T>(&mut self, codec: &mut C, frame: T) -> Result
    where
        C: Encoder<T, Error: Into<BoxError>>,
    {
        let buf = self.output.buf();
        let before = buf.len();
        if let Err(error) = codec.encode(frame, buf) {
            // Our encoders leave the buffer as it was; a foreign one might not.
            buf.truncate(before);
            return Err(Error::codec(error));
        }
        self.stats.add_frames_out(1);
        Ok(())
    }

    /// Bytes encoded and not yet written.
    pub(crate) fn unwritten(&self) -> usize {
        self.output.len()
    }

    /// Whether fewer answers than the high-water mark are waiting.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        self.output.len() < self.limits.high_water
    }

    /// Above the mark nothing is decoded or read until the peer has taken its answers. Ready when it has.
    #[inline]
    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result> {
        if self.has_room() { Poll::Ready(Ok(())) } else { self.poll_make_room(cx) }
    }

    #[cold]
    fn poll_make_room(&mut self, cx: &mut Context<'_>) -> Poll<Result> {
        let flushed = self.poll_flush(cx);
        if flushed.is_pending() {
            self.input.settle();
        }
        flushed
    }

    /// Writes everything that was encoded.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result> {
        if self.output.len() == 0 {
            return Poll::Ready(Ok(()));
        }
        self.output.poll_flush(&mut self.connection, self.limits.write_stall, cx)
    }

    /// Pending, with a wake-up on its way, when this connection has had its share of the turn.
    #[inline]
    pub(crate) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.turn < FRAMES_A_TURN { Poll::Ready(()) } else { self.yield_turn(cx) }
    }

    #[cold]
    fn yield_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.turn = 0;
        self.input.settle();
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Called when [`Wire::decode`] has run dry: writes what was answered, then waits for more. Ready when there is
    /// more to decode, or nothing more will come.
    pub(crate) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result> {
        self.poll_input(cx, true)
    }

    /// The same, for one who is in the middle of something: a drain does not end it.
    fn poll_input(&mut self, cx: &mut Context<'_>, drainable: bool) -> Poll<Result> {
        if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
            return Poll::Ready(Err(error));
        }
        // Below the mark a slow reader may go on sending; above it `poll_room` waits.
        while self.source == Source::Open {
            match self.poll_read(cx) {
                Poll::Ready(result) => return Poll::Ready(result),
                Poll::Pending if !drainable || self.poll_drained(cx).is_pending() => return self.rest(),
                Poll::Pending => {}
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Nothing to read: gives the thread's buffers back and waits.
    fn rest<T>(&mut self) -> Poll<T> {
        self.turn = 0;
        self.input.settle();
        Poll::Pending
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result> {
        let read = ready!(self.input.poll_fill(&mut self.connection, cx)).map_err(Error::wire)?;
        self.dry = false;
        // Here too, and not only where there is nothing to read: on some connections there always is.
        if self.drain.is_none() && self.closing.is_draining() {
            self.drain = Some(Drain::new());
        }
        if read == 0 {
            self.source = Source::Eof;
            self.peer_closed = true;
        } else if let Some(drain) = &mut self.drain {
            drain.left = drain.left.saturating_sub(read);
            if drain.left == 0 {
                // It sends without end; what came since the drain began is not ours to answer.
                self.source = Source::Shut;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Called when all that was read is decoded and there is nothing to read. Ready when the connection drains: then
    /// either nothing more will come, or reading is to be tried once more. Otherwise the drain will wake us.
    fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.drain.is_none() {
            ready!(self.closing.poll_draining(cx));
            self.drain = Some(Drain::new());
        }
        match self.drain.as_mut().and_then(|drain| drain.yielded.as_mut()) {
            Some(yielded) => {
                ready!(yielded.as_mut().poll(cx));
                self.drain.as_mut().map(|drain| drain.yielded.take());
            }
            None => self.source = Source::Ended,
        }
        Poll::Ready(())
    }

    /// Keeps the connection going while something else is awaited: writes what was answered and reads ahead, one
    /// buffer at most. Ready only with the error that ends the connection.
    pub(crate) fn poll_tend(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
            return Poll::Ready(error);
        }
        while self.source == Source::Open && self.input.len() < READ_AHEAD {
            match self.poll_read(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(error),
                Poll::Pending => break,
            }
        }
        self.rest()
    }

    /// Gives back the thread's read buffer and keeps what is left of the burst in one sized to it. For sessions, whose
    /// author may wait for something else before the next frame.
    pub(crate) fn settle(&mut self) {
        self.input.settle();
    }

    /// Exactly `n` raw bytes. A caller who goes away has taken none.
    pub(crate) fn poll_raw(&mut self, n: u64, cx: &mut Context<'_>) -> Poll<Result<Bytes>> {
        loop {
            if self.skipped() && self.input.len() as u64 >= n {
                return Poll::Ready(Ok(self.take_raw(n)));
            }
            ready!(self.poll_raw_input(n, cx))?;
        }
    }

    /// Some of the next `left` raw bytes, at least one.
    pub(crate) fn poll_raw_chunk(&mut self, left: u64, cx: &mut Context<'_>) -> Poll<Result<Bytes>> {
        loop {
            if self.skipped() && !self.input.is_empty() {
                return Poll::Ready(Ok(self.take_raw(left.min(RAW_CHUNK).min(self.input.len() as u64))));
            }
            ready!(self.poll_raw_input(left, cx))?;
        }
    }

    /// Raw bytes are what a request is waiting for, so a drain lets them come; it has its deadline.
    fn poll_raw_input(&mut self, wanted: u64, cx: &mut Context<'_>) -> Poll<Result> {
        if self.source != Source::Open {
            let missing = (self.skip + wanted).saturating_sub(self.input.len() as u64);
            return Poll::Ready(Err(SessionError::Truncated { missing }.into()));
        }
        self.poll_input(cx, false)
    }

    fn take_raw(&mut self, n: u64) -> Bytes {
        // It fits: no more than what is buffered is asked for.
        let bytes = self.input.take(usize::try_from(n).unwrap_or(usize::MAX));
        self.mid_frame = false;
        self.look_again();
        bytes
    }

    /// The next `n` bytes are of no interest.
    pub(crate) fn skip(&mut self, n: u64) {
        self.skip = n;
        self.look_again();
    }
}
