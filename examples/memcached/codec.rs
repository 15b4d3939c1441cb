//! Bytes to requests, answers to bytes.

use std::borrow::Cow;

use ropewalk::{Bytes, BytesMut, CodecError, Encoder, LineBody, Lines};

use super::cache::Item;

/// The largest value, in bytes.
pub(crate) const MAX_VALUE: usize = 1024 * 1024;
/// The longest command line, in bytes: a `get` of a thousand of the longest keys.
pub(crate) const MAX_LINE: usize = 256 * 1024;
/// What ends a line, and the data behind one.
pub(crate) const END: &[u8] = b"\r\n";

/// The text protocol: command lines, and behind those that store something its bytes.
pub(crate) type Memcache = LineBody<fn(&[u8]) -> Option<u64>>;

/// With the most bytes a command line may have, and a value.
pub(crate) fn memcache(max_line: usize, max_value: usize) -> Memcache {
    // The protocol says CR LF, and people type LF.
    let lines = Lines::any().max(max_line).skip_too_long();
    Memcache::new(lines, data_length).max_body(max_value + END.len())
}

/// How much comes behind a line, the data and its end. It is known of many a line that is wrong, too.
fn data_length(line: &[u8]) -> Option<u64> {
    let mut words = line.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    let (b"set" | b"add" | b"replace" | b"append" | b"prepend" | b"cas") = words.next()? else { return None };
    let length: u64 = std::str::from_utf8(words.nth(3)?).ok()?.parse().ok()?;
    Some(length.saturating_add(END.len() as u64))
}

/// What a request is answered with.
#[derive(Debug)]
pub(crate) enum Answer {
    Line(Cow<'static, str>),
    /// What a key has, if anything; the last key of a `get` ends the answer.
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
