//! Requests to answers.

use std::borrow::Cow;
use std::iter;
use std::str::{self, FromStr};
use std::sync::{Arc, Mutex};

use bytes::Buf;
use futures::stream;
use ropewalk::{Bytes, CodecError, Error, ErrorKind, Reply};

use super::cache::{Cache, How, Item, deadline, lock};
use super::codec::{Answer, Data, Request, TOO_LARGE};

/// The longest key, in bytes.
const MAX_KEY: usize = 250;

const UNKNOWN: &str = "ERROR";
const BAD_FORMAT: &str = "CLIENT_ERROR bad command line format";
const BAD_EXPTIME: &str = "CLIENT_ERROR invalid exptime argument";
const BAD_DELTA: &str = "CLIENT_ERROR invalid numeric delta argument";

/// What a command comes to, or what its client is told instead.
type Result<T> = std::result::Result<T, &'static str>;

pub(crate) fn answer(cache: &Arc<Mutex<Cache>>, Request { line, data }: Request) -> Reply<Answer> {
    let words = line.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    // One more than any command has, but a `get`.
    let mut words: Vec<&[u8]> = words.take(8).collect();
    let reply = match words[..] {
        [b"get", _, ..] => get(cache, &line, false, None),
        [b"gets", _, ..] => get(cache, &line, true, None),
        [b"gat", exptime, _, ..] => get(cache, &line, false, Some(exptime)),
        [b"gats", exptime, _, ..] => get(cache, &line, true, Some(exptime)),
        [b"quit"] => return Reply::none().then_close(),
        _ => {
            // A key may be called so, too.
            let may_be_quiet = words.len() > 2 || matches!(words[..], [b"flush_all" | b"verbosity", _]);
            let is_quiet = may_be_quiet && words.pop_if(|word| *word == b"noreply").is_some();
            let said = carry_out(&mut lock(cache), &words, data);
            if is_quiet {
                return Reply::none();
            }
            said.map(|said| Reply::one(Answer::Line(said)))
        }
    };
    reply.unwrap_or_else(|refusal| Reply::one(Answer::Line(refusal.into())))
}

fn carry_out(cache: &mut Cache, words: &[&[u8]], data: Data) -> Result<Cow<'static, str>> {
    let said = match *words {
        [b"set", key, flags, exptime, _] => store(cache, How::Set, [key, flags, exptime], data)?,
        [b"add", key, flags, exptime, _] => store(cache, How::Add, [key, flags, exptime], data)?,
        [b"replace", key, flags, exptime, _] => store(cache, How::Replace, [key, flags, exptime], data)?,
        [b"append", key, flags, exptime, _] => store(cache, How::Append, [key, flags, exptime], data)?,
        [b"prepend", key, flags, exptime, _] => store(cache, How::Prepend, [key, flags, exptime], data)?,
        [b"cas", key, flags, exptime, _, cas] => {
            store(cache, How::Cas(number(cas, BAD_FORMAT)?), [key, flags, exptime], data)?
        }
        [b"delete", key] => cache.delete(valid(key)?),
        [b"delete", _, ..] => return Err(BAD_FORMAT),
        [b"incr", key, delta] => {
            let delta = number(delta, BAD_DELTA)?;
            return cache.count(valid(key)?, |n| n.wrapping_add(delta)).map(Cow::from);
        }
        [b"decr", key, delta] => {
            let delta = number(delta, BAD_DELTA)?;
            return cache.count(valid(key)?, |n| n.saturating_sub(delta)).map(Cow::from);
        }
        [b"touch", key, exptime] => cache.touch(valid(key)?, number(exptime, BAD_EXPTIME)?),
        [b"flush_all"] => cache.flush_all(0),
        [b"flush_all", delay] => cache.flush_all(number(delay, BAD_EXPTIME)?),
        [b"verbosity", level] => number::<u32>(level, BAD_FORMAT).map(|_| "OK")?,
        [b"stats"] => return Ok(cache.stats().into()),
        [b"version"] => concat!("VERSION ", env!("CARGO_PKG_VERSION")),
        _ => return Err(UNKNOWN),
    };
    Ok(said.into())
}

fn store(cache: &mut Cache, how: How, [key, flags, exptime]: [&[u8]; 3], data: Data) -> Result<&'static str> {
    let (key, flags, exptime) = (valid(key)?, number(flags, BAD_FORMAT)?, number(exptime, BAD_EXPTIME)?);
    let data = data.ok_or(BAD_FORMAT)?;
    if data == Err(TOO_LARGE) && how == How::Set {
        // What it was to replace is out of date.
        cache.delete(key);
    }
    Ok(cache.store(how, key, Item { value: data?, flags, cas: 0, expires: deadline(exptime) }))
}

/// Without a time, or with that until which what is found is kept now.
fn get(cache: &Arc<Mutex<Cache>>, line: &Bytes, with_cas: bool, exptime: Option<&[u8]>) -> Result<Reply<Answer>> {
    let exptime = exptime.map(|word| number(word, BAD_EXPTIME)).transpose()?;
    let mut keys = Words(line.clone());
    keys.nth(usize::from(exptime.is_some()));
    for key in keys.0.split(|&byte| byte == b' ') {
        valid(key)?;
    }
    let mut find = move |cache: &Mutex<Cache>| {
        let key = keys.next()?;
        let (item, last) = (lock(cache).get(&key, exptime), keys.0.iter().all(|&byte| byte == b' '));
        Some(Answer::Value { key, item, with_cas, last })
    };
    match find(cache) {
        Some(answer @ Answer::Value { last: true, .. }) => Ok(Reply::one(answer)),
        first => {
            // Looked up when there is room for them: what the cache lets go must not live on in an answer nobody reads.
            let cache = Arc::clone(cache);
            let others = iter::from_fn(move || find(&cache));
            Ok(Reply::stream(stream::iter(first.into_iter().chain(others).map(Ok))))
        }
    }
}

fn valid(key: &[u8]) -> Result<&[u8]> {
    let is_valid = key.len() <= MAX_KEY && !key.iter().any(u8::is_ascii_control);
    if is_valid { Ok(key) } else { Err(BAD_FORMAT) }
}

fn number<N: FromStr>(word: &[u8], refusal: &'static str) -> Result<N> {
    str::from_utf8(word).ok().and_then(|word| word.parse().ok()).ok_or(refusal)
}

/// What is left of a line of words, with any number of spaces between them.
struct Words(Bytes);

impl Iterator for Words {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let start = self.0.iter().position(|&byte| byte != b' ')?;
        self.0.advance(start);
        let end = self.0.iter().position(|&byte| byte == b' ').unwrap_or(self.0.len());
        Some(self.0.split_to(end))
    }
}

/// What is told of a line that is no request. After all but the end of the stream the connection goes on.
pub(crate) fn refuse(error: &Error) -> Reply<Answer> {
    match error.downcast_ref().map(CodecError::kind) {
        Some(ErrorKind::TooLong { .. }) => Reply::one(Answer::Line("CLIENT_ERROR line too long".into())),
        _ => Reply::none().then_close(),
    }
}
