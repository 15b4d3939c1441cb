//! Where a line ends.

use bytes::{BufMut, Bytes, BytesMut};
use memchr::{memchr, memmem};

use super::newline;
use crate::frame::Span;

#[derive(Debug, Clone)]
pub(super) enum Delimiter {
    CrLf,
    Lf,
    /// LF, with an optional CR before it.
    Any,
    /// Two bytes or more, or one that is not LF.
    Bytes(Bytes),
}

impl Delimiter {
    pub(super) fn new(bytes: &[u8]) -> Self {
        assert!(!bytes.is_empty(), "the delimiter of lines must not be empty");
        match bytes {
            b"\r\n" => Self::CrLf,
            b"\n" => Self::Lf,
            _ => Self::Bytes(Bytes::copy_from_slice(bytes)),
        }
    }

    /// The first line of `buffer`. No delimiter ends before `from`, but a CR just before `from` may
    /// belong to one.
    #[inline(always)]
    pub(super) fn find(&self, buffer: &[u8], from: usize) -> Option<Span> {
        let found = self.search(buffer, from);
        #[cfg(test)]
        work::add(
            found.map_or(buffer.len(), |found| found.content + found.trail).saturating_sub(from),
        );
        found
    }

    #[inline(always)]
    fn search(&self, buffer: &[u8], mut from: usize) -> Option<Span> {
        if let Self::Bytes(bytes) = self {
            return Some(line(search_bytes(buffer, from, bytes)?, bytes.len()));
        }
        loop {
            // Called in one place only, because the inlined code is large.
            let lf = from + newline::find(buffer.get(from..)?)?;
            match self {
                Self::Lf => return Some(line(lf, 1)),
                _ if follows_cr(buffer, lf) => return Some(line(lf - 1, 2)),
                Self::Any => return Some(line(lf, 1)),
                _ => from = lf + 1,
            }
        }
    }

    /// Appends it.
    #[inline(always)]
    pub(super) fn put(&self, dst: &mut BytesMut) {
        match self {
            Self::Bytes(bytes) => return put_bytes(bytes, dst),
            Self::CrLf => dst.put_u8(b'\r'),
            Self::Lf | Self::Any => {}
        }
        // With a length known to the compiler no call is needed.
        dst.put_u8(b'\n');
    }

    /// The number of bytes that need no second search in a buffer of `len` bytes without a
    /// delimiter.
    pub(super) fn searched(&self, len: usize) -> usize {
        match self {
            // These are found by their LF, from which the CR before it is checked.
            Self::CrLf | Self::Lf | Self::Any => len,
            Self::Bytes(bytes) => len.saturating_sub(bytes.len() - 1),
        }
    }

    /// The line that is all of `buffer`, because the stream ended before the delimiter was
    /// complete.
    pub(super) fn unfinished(&self, buffer: &[u8]) -> Span {
        match (self, buffer) {
            // The CR is the first half of a delimiter.
            (Self::Any, [content @ .., b'\r']) => line(content.len(), 1),
            _ => Span::bare(buffer.len()),
        }
    }

    /// How many bytes of a too long line can be dropped before its delimiter has arrived: all that
    /// cannot be part of the delimiter, except one, which shows the owner of the buffer that the
    /// line has not ended.
    pub(super) fn droppable(&self, buffer: &[u8]) -> usize {
        self.searched(buffer.len()).min(buffer.len().saturating_sub(1))
    }

    /// Whether `buffer`, which holds no delimiter, is certainly a line over `max`, that is, no
    /// delimiter can have begun at or before `max`.
    pub(super) fn is_over(&self, buffer: &[u8], max: usize) -> bool {
        let tail = match buffer.get(max..) {
            None | Some([]) => return false,
            Some(tail) => tail,
        };
        match self {
            Self::Lf => true,
            Self::CrLf | Self::Any => tail != b"\r",
            Self::Bytes(bytes) => {
                // A partial delimiter that ends the buffer may have begun before `max` or at it.
                let first = buffer.len().saturating_sub(bytes.len() - 1);
                !(first..=max).any(|at| bytes.starts_with(&buffer[at..]))
            }
        }
    }

    /// Whether `line` and the delimiter after it are decoded to that line.
    #[inline(always)]
    pub(super) fn ends_only(&self, line: &[u8]) -> bool {
        match self {
            Self::Lf => !newline::is_in(line),
            // A CR at the end would be taken for part of the delimiter.
            Self::Any => !newline::is_in(line) && !line.ends_with(b"\r"),
            _ => self.ends_other(line),
        }
    }

    /// The same for the other delimiters, which are rarer in answers and take more code.
    fn ends_other(&self, line: &[u8]) -> bool {
        match self {
            Self::Bytes(bytes) => search_bytes(line, 0, bytes).is_none() && !overlaps(line, bytes),
            _ => self.search(line, 0).is_none(),
        }
    }
}

#[inline(always)]
fn line(content: usize, trail: usize) -> Span {
    Span { lead: 0, content, trail }
}

#[inline(always)]
fn follows_cr(buffer: &[u8], lf: usize) -> bool {
    lf.checked_sub(1).is_some_and(|before| buffer.get(before) == Some(&b'\r'))
}

// Of one body with the others, it would be the call that each of them makes.
#[inline(never)]
fn put_bytes(delimiter: &[u8], dst: &mut BytesMut) {
    dst.extend_from_slice(delimiter);
}

#[inline(never)]
fn search_bytes(buffer: &[u8], from: usize, delimiter: &[u8]) -> Option<usize> {
    let rest = buffer.get(from..)?;
    let at = match delimiter {
        [byte] => memchr(*byte, rest)?,
        _ => memmem::find(rest, delimiter)?,
    };
    Some(from + at)
}

/// Whether a delimiter begins in the line and ends in the delimiter after it, as `aa` does in `xa`
/// + `aa`.
fn overlaps(line: &[u8], delimiter: &[u8]) -> bool {
    (1..delimiter.len()).any(|in_line| {
        let (head, tail) = delimiter.split_at(in_line);
        delimiter.starts_with(tail) && line.ends_with(head)
    })
}

/// Counts the bytes searched, so that a test can bound the work without a clock.
#[cfg(test)]
pub(super) mod work {
    use std::cell::Cell;

    thread_local!(static SEARCHED: Cell<usize> = const { Cell::new(0) });

    pub(in crate::lines) fn add(bytes: usize) {
        SEARCHED.set(SEARCHED.get() + bytes);
    }

    pub(in crate::lines) fn take() -> usize {
        SEARCHED.take()
    }
}
