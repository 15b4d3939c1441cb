//! One connection with its buffers, timers and deadlines, below both sessions and dispatch.
//!
//! One read, all its frames, one write: [`Wire::decode`] returns the frames that were read; after
//! the last one, [`Wire::poll_more`] first writes the answers and then reads again.

mod activity;
mod decode;
mod drain;
mod finish;
mod input;
mod large;
mod limits;
mod memory;
mod offer;
mod output;
mod pause;
mod raw;
mod scratch;
mod stall;
mod timer;
mod turn;
#[cfg(feature = "rustls")]
mod upgrade;
mod wait;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use ropewalk_middleware::{
    BoxError, CloseReason, Closing, Connection, Error, ReadDeadlines, Result, SessionError, Stats,
};
use tokio::task::unconstrained;
use tokio_util::codec::Encoder;

pub(crate) use self::limits::Limits;
pub(crate) use self::timer::{Timer, after};

use self::decode::{FrameState, Pace};
use self::drain::Drain;
use self::input::InputBuffer;
use self::output::OutputBuffer;
use self::pause::Pause;
use self::turn::WaitStep;
use self::wait::{PeerWait, Want};

/// Whether more frames can come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The peer may send more.
    Open,
    /// The peer has closed its side; bytes that were read are not all decoded yet.
    Eof,
    /// No more is read, because the connection drains; bytes that were read are not all decoded
    /// yet.
    Shut,
    /// No more frames will come: end of stream, a fatal error, or drained.
    Ended,
}

/// A connection with its buffers.
#[derive(Debug)]
pub(crate) struct Wire {
    connection: Connection,
    closing: Closing,
    input: InputBuffer,
    output: OutputBuffer,
    limits: Arc<Limits>,
    source: Source,
    /// The peer has closed its side.
    peer_closed: bool,
    /// The codec has seen all of `input` and wants more.
    dry: bool,
    place: FrameState,
    pace: Pace,
    /// The number of raw bytes to discard as they arrive.
    skip: u64,
    /// Steps taken in this turn.
    turn: u32,
    /// The next step of the wait for a pending call, and the first one of the next wait.
    step: WaitStep,
    first_step: WaitStep,
    /// The runtime has one thread.
    alone: bool,
    /// The last pause between two writes ahead of calls under way. Boxed, because few connections
    /// need it at a time.
    pause: Option<Box<Pause>>,
    /// The peer did not accept its answers in time.
    stalled: bool,
    /// Bytes have moved since the last recorded activity.
    moved: bool,
    /// It is recorded that the wire waits for the peer.
    waiting: bool,
    /// It is recorded that bytes wait to be written.
    writing: bool,
    /// A frame was refused because of the write limit, and the queue has not been empty since.
    over_limit: bool,
    /// Boxed, because few connections need it at a time, and every connection has this field.
    drain: Option<Box<Drain>>,
    wait: PeerWait,
    /// One timer for all deadlines, except the drain's wait for the first bytes and the lingering
    /// close.
    timer: Timer,
}

impl Wire {
    pub(crate) fn new(connection: Connection, limits: Arc<Limits>) -> Self {
        connection.stats().begin_frames();
        let mut output = OutputBuffer::default();
        output.set_quick(limits.high_water);
        let alone = turn::is_alone();
        let first_step = WaitStep::first(alone);
        Self {
            closing: connection.closing(),
            connection,
            input: InputBuffer::default(),
            output,
            limits,
            source: Source::Open,
            peer_closed: false,
            dry: true,
            place: FrameState::Boundary,
            pace: Pace::default(),
            skip: 0,
            turn: 0,
            step: first_step,
            first_step,
            alone,
            pause: None,
            stalled: false,
            moved: false,
            waiting: false,
            writing: false,
            over_limit: false,
            drain: None,
            wait: PeerWait::default(),
            timer: Timer::default(),
        }
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(crate) fn closing(&self) -> &Closing {
        &self.closing
    }

    #[inline]
    fn stats(&self) -> &Stats {
        self.connection.as_ref()
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The same to be changed, for this connection alone.
    pub(crate) fn limits_mut(&mut self) -> &mut Limits {
        // One of them is the high-water mark.
        self.output.set_quick(0);
        Arc::make_mut(&mut self.limits)
    }

    /// Whether no more frames will be decoded.
    pub(crate) fn has_ended(&self) -> bool {
        self.source == Source::Ended
    }

    /// Whether the input has ended because of a drain, and the peer has not closed its side.
    pub(crate) fn is_drained(&self) -> bool {
        self.has_ended() && !self.peer_closed && self.closing.is_draining()
    }

    /// Encodes a frame after those that are queued. On an error no part of it is queued.
    #[inline(always)]
    pub(crate) fn encode<C, T>(&mut self, codec: &mut C, frame: T) -> Result
    where
        C: Encoder<T, Error: Into<BoxError>>,
    {
        let buf = self.output.buf();
        let before = buf.len();
        if let Err(error) = codec.encode(frame, buf) {
            // The encoders of this crate leave the buffer unchanged on an error; others might not.
            buf.truncate(before);
            return Err(Error::codec(error));
        }
        self.stats().add_frames_out(1);
        Ok(())
    }

    /// The same, for types that can be compared: a large [`Bytes`] is not copied if the codec is
    /// one of this crate's.
    #[inline(always)]
    pub(crate) fn encode_shared<C, T>(&mut self, codec: &mut C, frame: T) -> Result
    where
        C: Encoder<T, Error: Into<BoxError>> + 'static,
        T: 'static,
    {
        match large::encode(codec, &frame, &mut self.output) {
            None => self.encode(codec, frame),
            Some(Ok(())) => {
                self.stats().add_frames_out(1);
                Ok(())
            }
            Some(Err(error)) => Err(Error::codec(error)),
        }
    }

    /// Queues bytes after the queued frames; many bytes are not copied.
    pub(crate) fn push_raw(&mut self, bytes: Bytes) {
        self.stats().excuse_first_frame();
        self.output.push(bytes);
    }

    /// The number of bytes encoded and not written yet.
    pub(crate) fn unwritten(&self) -> usize {
        self.output.len()
    }

    /// Whether a write stall has ended the connection.
    pub(crate) fn has_stalled(&self) -> bool {
        self.stalled
    }

    /// Whether fewer bytes of answers than the high-water mark are queued.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        self.output.is_quick() || self.output.len() < self.limits.high_water
    }

    /// Above the mark, the wire does not decode or read until the peer has accepted its answers.
    /// Ready when it has.
    #[inline]
    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result> {
        if self.has_room() { Poll::Ready(Ok(())) } else { self.poll_make_room(cx) }
    }

    #[cold]
    fn poll_make_room(&mut self, cx: &mut Context<'_>) -> Poll<Result> {
        self.closing.watch(cx);
        if let Poll::Ready(flushed) = self.poll_flush(cx) {
            // The next answer may be as large.
            let waits =
                flushed.is_ok() && !self.closing.is_aborted() && self.poll_memory(cx).is_pending();
            return if waits { Poll::Pending } else { Poll::Ready(flushed) };
        }
        if self.has_room() {
            // The peer has not accepted all, but enough.
            return Poll::Ready(Ok(()));
        }
        if self.closing.is_aborted() { Poll::Ready(Err(self.aborted())) } else { self.rest() }
    }

    /// Writes everything that was encoded.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result> {
        if self.output.is_flushed() {
            return Poll::Ready(Ok(()));
        }
        let stalled = self.output.is_stalled();
        let waiting = self.output.len();
        let patience = self.limits.write_stall;
        let timer = &mut self.timer;
        let output = &mut self.output;
        let connection = &mut self.connection;
        // Unconstrained: a call or a session may have used up the task's budget, which must not
        // look like a stalled peer; the queue is bounded.
        let flush = unconstrained(poll_fn(|cx| output.poll_flush(connection, patience, timer, cx)));
        let flushed = pin!(flush).poll(cx);
        self.moved |= self.output.len() < waiting;
        if stalled && flushed.is_ready() && self.connection.read_deadlines() == ReadDeadlines::OFF {
            // The peer's only deadline is over.
            self.timer.stop();
        }
        if stalled || flushed.is_pending() {
            // The queued bytes have moved to a buffer of their own, or are written.
            self.count_memory();
        }
        if let Poll::Ready(Ok(())) = flushed {
            self.over_limit = false;
            self.output.set_quick(self.limits.high_water);
        }
        flushed.map_err(|error| {
            self.stalled = error.close_reason() == Some(CloseReason::Timeout);
            self.failed(error)
        })
    }

    /// Called when [`Wire::decode`] has returned `None`: writes the answers, then waits for more
    /// bytes. Ready when there is more to decode, or when no more will come. While calls are under
    /// way the peer has no deadline.
    pub(crate) fn poll_more(&mut self, calls: bool, cx: &mut Context<'_>) -> Poll<Result> {
        if !self.dry && self.source != Source::Ended {
            // Decoding was stopped because the turn is over, not because the codec wants more
            // bytes.
            return self.poll_turn(cx).map(Ok);
        }
        self.poll_input(if calls { Want::FrameMeanwhile } else { Want::Frame }, cx)
    }

    fn poll_input(&mut self, want: Want, cx: &mut Context<'_>) -> Poll<Result> {
        // A drain does not interrupt raw bytes.
        let drainable = want != Want::Raw;
        if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
            return Poll::Ready(Err(error));
        }
        // Below the mark a peer that reads slowly may go on sending; above it `poll_room` waits.
        while self.source == Source::Open || self.source == Source::Shut && !drainable {
            if self.poll_memory(cx).is_pending() {
                return if self.closing.is_aborted() {
                    Poll::Ready(Err(self.aborted()))
                } else {
                    Poll::Pending
                };
            }
            if self.poll_read(cx)?.is_ready() {
                if drainable {
                    self.note_drain();
                }
                return Poll::Ready(Ok(()));
            }
            // Before the looks at what may have happened meanwhile. Not before the read: one that
            // finds bytes has nothing to wait for.
            self.closing.watch(cx);
            if self.closing.is_aborted() {
                return Poll::Ready(Err(self.aborted()));
            }
            if !drainable || self.poll_drained(cx).is_pending() {
                if let Poll::Ready(error) = self.poll_patience(want, cx) {
                    return Poll::Ready(Err(error));
                }
                if want != Want::FrameMeanwhile {
                    self.end_waits();
                }
                self.set_waiting(want != Want::FrameMeanwhile && self.output.is_flushed());
                return self.rest();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Fails once the connection was told to abort: no more frames are returned, not even those
    /// already read.
    #[inline]
    pub(crate) fn check_live(&mut self) -> Result {
        if self.closing.is_aborted() { Err(self.aborted()) } else { Ok(()) }
    }

    /// The error of a connection that was told to abort. Its own task is dropped anyway; this is
    /// for a session in another task.
    fn aborted(&mut self) -> Error {
        self.source = Source::Ended;
        SessionError::Aborted.into()
    }

    /// A failed connection yields no more frames, even if the kernel still has bytes.
    fn failed(&mut self, error: Error) -> Error {
        self.source = Source::Ended;
        error
    }

    /// Reads once, which is a step of the turn. Ready with the number of bytes; 0 is the end of the
    /// stream.
    #[inline]
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize>> {
        let read = match ready!(self.input.poll_fill(&mut self.connection, cx)) {
            Ok(read) => read,
            Err(error) => return Poll::Ready(Err(self.failed(Error::wire(error)))),
        };
        self.dry = false;
        self.count_turn();
        self.set_waiting(false);
        self.moved |= read > 0;
        self.count_drain(read);
        if read == 0 {
            self.source = Source::Eof;
            self.peer_closed = true;
        }
        Poll::Ready(Ok(read))
    }

    /// Replaces the read deadlines, from the next wait on.
    pub(crate) fn set_read_deadlines(&mut self, deadlines: ReadDeadlines) {
        self.connection.set_read_deadlines(deadlines);
    }
}
