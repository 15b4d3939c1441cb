//! Where a line ends.

use bytes::Bytes;
use memchr::{memchr, memchr_iter, memmem};

#[derive(Debug, Clone)]
pub(super) enum Delimiter {
    CrLf,
    Lf,
    /// LF, with an optional CR before it.
    Any,
    /// Two bytes or more, or one that is not LF.
    Bytes(Bytes),
}

/// A line found in a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// The bytes of the line.
    pub(super) content: usize,
    /// The bytes after them that end it.
    pub(super) delimiter: usize,
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

    /// What encoding appends.
    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::CrLf => b"\r\n",
            Self::Lf | Self::Any => b"\n",
            Self::Bytes(bytes) => bytes,
        }
    }

    /// The first line of `buffer`, of which a delimiter is known not to begin before `from`, save that a CR just before
    /// `from` is still looked at.
    pub(super) fn find(&self, buffer: &[u8], from: usize) -> Option<Found> {
        let found = self.search(buffer, from);
        #[cfg(test)]
        work::add(found.as_ref().map_or(buffer.len(), |found| found.content + found.delimiter) - from);
        found
    }

    fn search(&self, buffer: &[u8], from: usize) -> Option<Found> {
        let rest = buffer.get(from..)?;
        let lf_after_cr = |lf: usize| lf > 0 && buffer[lf - 1] == b'\r';
        match self {
            Self::CrLf => {
                let mut lfs = memchr_iter(b'\n', rest).map(|at| from + at);
                let lf = lfs.find(|&lf| lf_after_cr(lf))?;
                Some(Found { content: lf - 1, delimiter: 2 })
            }
            Self::Lf => Some(Found { content: from + memchr(b'\n', rest)?, delimiter: 1 }),
            Self::Any => {
                let lf = from + memchr(b'\n', rest)?;
                let cr = usize::from(lf_after_cr(lf));
                Some(Found { content: lf - cr, delimiter: 1 + cr })
            }
            Self::Bytes(bytes) => {
                let at = match **bytes {
                    [byte] => memchr(byte, rest)?,
                    _ => memmem::find(rest, bytes)?,
                };
                Some(Found { content: from + at, delimiter: bytes.len() })
            }
        }
    }

    /// How far a buffer of `len` bytes without a delimiter need not be searched again.
    pub(super) fn searched(&self, len: usize) -> usize {
        match self {
            // Found by their last byte; the CR before it is looked at from there.
            Self::CrLf | Self::Lf | Self::Any => len,
            Self::Bytes(bytes) => len.saturating_sub(bytes.len() - 1),
        }
    }

    /// How many bytes of a too long line without its delimiter can be dropped: all that cannot be part of it.
    pub(super) fn droppable(&self, buffer: &[u8]) -> usize {
        match self {
            Self::CrLf if buffer.ends_with(b"\r") => buffer.len() - 1,
            Self::CrLf | Self::Lf | Self::Any => buffer.len(),
            Self::Bytes(_) => self.searched(buffer.len()),
        }
    }

    /// Whether `buffer`, which holds no delimiter, is a line over `max` whatever comes next: no delimiter may have begun
    /// at or before `max`.
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

    /// Whether `line` and the delimiter after it are read back as that line.
    pub(super) fn ends_only(&self, line: &[u8]) -> bool {
        match self {
            // What looks like the optional CR would be taken off again.
            Self::Any if line.ends_with(b"\r") => false,
            Self::Bytes(bytes) => self.find(line, 0).is_none() && !overlaps(line, bytes),
            _ => self.find(line, 0).is_none(),
        }
    }
}

/// Whether a delimiter begins in the line and ends in the delimiter after it, as `aa` does in `xa` + `aa`.
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
