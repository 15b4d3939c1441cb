//! One direction of a memory connection.

use std::collections::VecDeque;
use std::io;
use std::task::{Context, Poll, Waker};

use tokio::io::ReadBuf;

/// The state of the direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PipeState {
    Open,
    /// No more bytes will be written; those written before can still be read.
    Finished,
    /// The reader is gone, and the writer does not know yet.
    Unread,
    /// The connection was reset, by the end that reads here or by the one that writes.
    Reset,
}

/// Bytes on their way from one end to the other, at most `capacity` of them.
#[derive(Debug)]
pub(super) struct Pipe {
    bytes: VecDeque<u8>,
    capacity: usize,
    state: PipeState,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    pub(super) fn new(capacity: usize) -> Self {
        // It grows with the bytes written, so idle connections stay small.
        Self {
            bytes: VecDeque::new(),
            capacity: capacity.max(1),
            state: PipeState::Open,
            reader: None,
            writer: None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether written bytes would be lost: the writer has not ended the direction, but its reader
    /// is gone.
    pub(super) fn is_unread(&self) -> bool {
        self.state == PipeState::Unread
    }

    /// The most bytes that a write accepts.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Reads the available bytes; the returned waker is the writer's.
    pub(super) fn poll_read(
        &mut self,
        cx: &Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<Option<Waker>>> {
        if self.state == PipeState::Reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if self.bytes.is_empty() && self.state == PipeState::Open && buf.remaining() > 0 {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let (front, back) = self.bytes.as_slices();
        let from_front = front.len().min(buf.remaining());
        buf.put_slice(&front[..from_front]);
        let from_back = back.len().min(buf.remaining());
        buf.put_slice(&back[..from_back]);
        self.bytes.drain(..from_front + from_back);
        Poll::Ready(Ok(self.writer.take()))
    }

    /// Ready when a read would be.
    pub(super) fn poll_readable(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.bytes.is_empty() && self.state == PipeState::Open {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Writes as much as there is room for; the returned waker is the reader's.
    pub(super) fn poll_write(
        &mut self,
        cx: &Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<(usize, Option<Waker>)>> {
        match self.state {
            PipeState::Open => {}
            PipeState::Finished | PipeState::Unread => {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            PipeState::Reset => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
        let room = self.capacity - self.bytes.len();
        if room == 0 && !bytes.is_empty() {
            self.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let n = bytes.len().min(room);
        self.bytes.extend(&bytes[..n]);
        Poll::Ready(Ok((n, self.reader.take())))
    }

    /// Ends the direction: the reader sees the end after the last byte.
    pub(super) fn finish(&mut self) -> Wakers {
        if self.state == PipeState::Open {
            self.state = PipeState::Finished;
        }
        self.wakers()
    }

    /// The reader is gone. A direction that has ended stays ended: its writer can't write, with or
    /// without a reader.
    pub(super) fn unread(&mut self) -> Wakers {
        if self.state == PipeState::Open {
            self.state = PipeState::Unread;
        }
        self.wakers()
    }

    /// Resets the direction; unread bytes are lost.
    pub(super) fn reset(&mut self) -> Wakers {
        self.state = PipeState::Reset;
        self.bytes = VecDeque::new();
        self.wakers()
    }

    fn wakers(&mut self) -> Wakers {
        [self.reader.take(), self.writer.take()]
    }
}

/// The tasks that wait for a direction; wake them after the lock is released.
pub(super) type Wakers = [Option<Waker>; 2];
