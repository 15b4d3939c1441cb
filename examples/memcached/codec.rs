//! Bytes to requests, answers to bytes.

use std::borrow::Cow;

use memchr::memchr;
use ropewalk::codec::{CodecError, Decoder, Encoder, ErrorKind, LineOrRaw};
use ropewalk::{Bytes, BytesMut, LineRaw, Lines};

use super::cache::Item;

/// The largest value, in bytes.
pub(crate) const MAX_VALUE: usize = 1024 * 1024;
/// The longest `get`, in bytes up to its LF: a thousand of the longest keys.
pub(crate) const MAX_LINE: usize = 256 * 1024;
/// The longest line of any other command, as in memcached itself.
const MAX_COMMAND: usize = 2048;
/// The largest length of data that memcached itself takes for one; the line is wrong if it names a larger one.
pub(crate) const MAX_LENGTH: u64 = i32::MAX as u64 - 2;
/// What ends a line, and the data behind one.
pub(crate) const END: &[u8] = b"\r\n";

/// A command, and the bytes after it: its data, and their end. Both are empty if it announced no data.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Request {
    pub(crate) line: Bytes,
    /// `None` if it was too large.
    pub(crate) data: Option<Bytes>,
}

/// The text protocol: command lines, and behind those that store something its bytes.
#[derive(Clone, Debug)]
pub(crate) struct Memcache {
    wire: LineRaw,
    max_line: usize,
    max_value: usize,
    /// The line that waits for its data. Raw bytes without one belong to a value that is dropped.
    waiting: Option<Bytes>,
}

impl Memcache {
    /// With the most bytes a `get` may have, and a value.
    pub(crate) fn new(max_line: usize, max_value: usize) -> Self {
        // The protocol says CR LF, and people type LF.
        Self { wire: LineRaw::new(Lines::any().max(max_line)), max_line, max_value, waiting: None }
    }

    /// Refuses bytes that can't be a line: the binary protocol, TLS, any command over 2 KiB but the `get`s.
    fn check(&mut self, src: &[u8]) -> Result<(), CodecError> {
        let is_get = || matches!(src.trim_ascii_start(), [b'g', b'e' | b'a', b't', ..]);
        let fits = |max: usize| src.len() <= max || memchr(b'\n', &src[..=max]).is_some();
        let kind = match src {
            _ if self.wire.is_raw() => return Ok(()),
            [0x80 | 0x16, ..] => ErrorKind::Parse("not the text protocol".into()),
            _ if fits(MAX_COMMAND.min(self.max_line)) || is_get() && fits(self.max_line) => return Ok(()),
            _ => ErrorKind::TooLong { max: MAX_COMMAND },
        };
        // Data may follow whose end is unknown: all is dropped.
        self.wire.raw_until_lines();
        Err(CodecError::new(kind))
    }

    /// A line without data is a request; one with data the beginning of one.
    fn line(&mut self, line: Bytes) -> Option<Request> {
        let Some(length) = data_length(&line) else { return Some(Request { line, data: Some(Bytes::new()) }) };
        match usize::try_from(length) {
            Ok(length) if length <= self.max_value => {
                self.wire.raw_whole(length + END.len());
                // Of its own size: what waits must not keep alive all that was read with it.
                self.waiting = Some(Bytes::copy_from_slice(&line));
                None
            }
            _ => {
                // It is dropped as it comes.
                self.wire.raw(length + END.len() as u64);
                Some(Request { line, data: None })
            }
        }
    }
}

/// How much data comes behind a line. Many invalid lines have it too.
fn data_length(line: &[u8]) -> Option<u64> {
    let mut words = line.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    let before = match words.next()? {
        b"set" | b"add" | b"replace" | b"append" | b"prepend" | b"cas" => 3,
        // Not served here, but its data must not be taken for commands either.
        b"ms" => 1,
        _ => return None,
    };
    let length = std::str::from_utf8(words.nth(before)?).ok()?.parse().ok();
    length.filter(|&length| length <= MAX_LENGTH)
}

impl Decoder for Memcache {
    type Item = Request;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Request>, CodecError> {
        loop {
            self.check(src)?;
            let request = match self.wire.decode(src)? {
                Some(LineOrRaw::Line(line)) => self.line(line),
                Some(LineOrRaw::Raw(data)) => self.waiting.take().map(|line| Request { line, data: Some(data) }),
                None => return Ok(None),
            };
            if request.is_some() {
                return Ok(request);
            }
        }
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Request>, CodecError> {
        match self.decode(src)? {
            // The rest is at most a part of a request, which is an error.
            None => self.wire.decode_eof(src).map(|_| None),
            request => Ok(request),
        }
    }
}

/// The answer to a request.
#[derive(Debug)]
pub(crate) enum Answer {
    Line(Cow<'static, str>),
    /// The value of a key, if it has one; the last key of a `get` ends the answer.
    Value {
        key: Bytes,
        item: Option<Item>,
        with_cas: bool,
        last: bool,
    },
}

impl Encoder<Answer> for Memcache {
    type Error = CodecError;

    fn encode(&mut self, answer: Answer, dst: &mut BytesMut) -> Result<(), CodecError> {
        match answer {
            Answer::Line(line) => put(dst, &[line.as_bytes(), END]),
            Answer::Value { key, item, with_cas, last } => {
                if let Some(Item { value, flags, cas, .. }) = item {
                    // Room for the numbers as well, so that it grows once.
                    dst.reserve(key.len() + value.len() + 80);
                    put(dst, &[b"VALUE ", &key]);
                    let numbers = [flags.into(), value.len() as u64];
                    for n in numbers.into_iter().chain(with_cas.then_some(cas)) {
                        put(dst, &[b" ", itoa::Buffer::new().format(n).as_bytes()]);
                    }
                    put(dst, &[END, &value, END]);
                }
                put(dst, if last { &[b"END", END] } else { &[] });
            }
        }
        Ok(())
    }
}

fn put(dst: &mut BytesMut, parts: &[&[u8]]) {
    parts.iter().for_each(|part| dst.extend_from_slice(part));
}
