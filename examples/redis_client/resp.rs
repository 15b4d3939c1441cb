//! RESP, version 3, as far as most answers need it: commands out, values in.

use std::fmt;

use bytes::Buf;
use ropewalk::codec::{CodecError, Decoder, Encoder, ErrorKind};
use ropewalk::{Bytes, BytesMut};

/// The largest answer, in bytes, and how deep its lists may be in one another.
const MAX: usize = 16 * 1024 * 1024;
const MAX_DEPTH: usize = 8;

/// A command and its words, encoded in one buffer instead of one for each word.
#[derive(Clone, Debug)]
pub(crate) struct Command(Vec<u8>);

impl Command {
    pub(crate) fn new<W: AsRef<[u8]>>(words: impl IntoIterator<Item = W, IntoIter: ExactSizeIterator>) -> Self {
        let words = words.into_iter();
        let mut encoded = Vec::with_capacity(128);
        header(b'*', words.len(), &mut encoded);
        for word in words {
            header(b'$', word.as_ref().len(), &mut encoded);
            encoded.extend_from_slice(word.as_ref());
            encoded.extend_from_slice(b"\r\n");
        }
        Self(encoded)
    }
}

/// The line before a list of `n` words, or before a word of `n` bytes.
fn header(kind: u8, n: usize, out: &mut Vec<u8>) {
    // By hand, because a client's speed depends on it: `write!` takes several times as long.
    let mut digits = [b'0'; 20];
    let (mut rest, mut at) = (n, digits.len());
    while at == digits.len() || rest > 0 {
        at -= 1;
        digits[at] = b"0123456789"[rest % 10];
        rest /= 10;
    }
    out.push(kind);
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    /// A text, a number, a boolean, or bytes.
    Text(Bytes),
    Error(String),
    /// A list; the keys and values of a map alternate.
    List(Vec<Self>),
    /// A push, which answers no command.
    Push(Vec<Self>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("(nothing)"),
            Self::Text(text) => write!(f, "{}", text.escape_ascii()),
            Self::Error(text) => write!(f, "(error) {text}"),
            Self::List(values) | Self::Push(values) => values
                .iter()
                .enumerate()
                .try_for_each(|(i, value)| write!(f, "{}{value}", if i == 0 { "" } else { " " })),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Resp;

impl Encoder<Command> for Resp {
    type Error = CodecError;

    fn encode(&mut self, Command(encoded): Command, dst: &mut BytesMut) -> Result<(), CodecError> {
        dst.extend_from_slice(&encoded);
        Ok(())
    }
}

impl Decoder for Resp {
    type Item = Value;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Value>, CodecError> {
        let mut at = 0;
        let value = value(src, &mut at, MAX_DEPTH)?;
        match &value {
            Some(_) => src.advance(at),
            None if src.len() > MAX => return Err(CodecError::new(ErrorKind::TooLong { max: MAX })),
            None => {}
        }
        Ok(value)
    }
}

fn wrong(what: &str) -> CodecError {
    CodecError::new(ErrorKind::Other(what.to_owned().into()))
}

/// The value at `at`, which is moved to its end. `None` if it is not complete.
fn value(src: &[u8], at: &mut usize, depth: usize) -> Result<Option<Value>, CodecError> {
    let Some(line) = line(src, at) else { return Ok(None) };
    let (kind, text) = line.split_first().ok_or_else(|| wrong("an empty line"))?;
    let length = || std::str::from_utf8(text).ok()?.parse::<i64>().ok();
    Ok(Some(match kind {
        b'+' | b':' | b',' | b'#' | b'(' => Value::Text(Bytes::copy_from_slice(text)),
        b'-' => Value::Error(String::from_utf8_lossy(text).into_owned()),
        b'_' => Value::Null,
        b'$' | b'=' | b'!' | b'*' | b'~' | b'>' | b'%' => match length().map(usize::try_from) {
            Some(Ok(n)) if n <= MAX => return long(*kind, n, src, at, depth),
            Some(Err(_)) => Value::Null,
            _ => return Err(wrong("no length")),
        },
        _ => return Err(wrong("an unknown type of value")),
    }))
}

/// A value with a length before it.
fn long(kind: u8, n: usize, src: &[u8], at: &mut usize, depth: usize) -> Result<Option<Value>, CodecError> {
    if matches!(kind, b'$' | b'=' | b'!') {
        let Some(text) = src.get(*at..*at + n + 2) else { return Ok(None) };
        *at += n + 2;
        let text = Bytes::copy_from_slice(&text[..n]);
        return Ok(Some(if kind == b'!' {
            Value::Error(String::from_utf8_lossy(&text).into_owned())
        } else {
            Value::Text(text)
        }));
    }
    let depth = depth.checked_sub(1).ok_or_else(|| wrong("lists too deep in one another"))?;
    let mut values = Vec::new();
    for _ in 0..if kind == b'%' { 2 * n } else { n } {
        let Some(value) = value(src, at, depth)? else { return Ok(None) };
        values.push(value);
    }
    Ok(Some(if kind == b'>' { Value::Push(values) } else { Value::List(values) }))
}

/// The line at `at`, without its end.
fn line<'a>(src: &'a [u8], at: &mut usize) -> Option<&'a [u8]> {
    let rest = &src[*at..];
    let end = (1..rest.len()).find(|end| rest[*end] == b'\n' && rest[end - 1] == b'\r')?;
    *at += end + 1;
    Some(&rest[..end - 1])
}
