//! What a command line says.

use std::str::{self, FromStr};

use bytes::Buf;
use ropewalk::Bytes;

/// The longest key, in bytes.
const MAX_KEY: usize = 250;

/// What the client is told of a line that is no command.
type Refusal = &'static str;

const UNKNOWN: Refusal = "ERROR";
const BAD_FORMAT: Refusal = "CLIENT_ERROR bad command line format";
const BAD_EXPTIME: Refusal = "CLIENT_ERROR invalid exptime argument";
const BAD_DELTA: Refusal = "CLIENT_ERROR invalid numeric delta argument";

pub(crate) type Key = Box<[u8]>;

/// A command, with its data if it has any.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Request {
    pub(crate) command: Command,
    /// The client does not want to be told how it went.
    pub(crate) noreply: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Command {
    Get { keys: Keys, with_cas: bool, touch: Option<i64> },
    Store(Store),
    Delete { key: Key },
    Count { key: Key, delta: u64, up: bool },
    Touch { key: Key, exptime: i64 },
    FlushAll { delay: i64 },
    Stats,
    Version,
    Verbosity,
    Quit,
}

/// `set` and its kin. Without a value, that was too large to be read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Store {
    pub(crate) how: How,
    pub(crate) key: Key,
    pub(crate) flags: u32,
    pub(crate) exptime: i64,
    pub(crate) value: Option<Bytes>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum How {
    Set,
    Add,
    Replace,
    Append,
    Prepend,
    Cas(u64),
}

/// The keys of a `get`: what is left of its line, of which they are slices.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Keys(Bytes);

impl Keys {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Iterator for Keys {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let start = self.0.iter().position(|&byte| byte != b' ')?;
        self.0.advance(start);
        match self.0.iter().position(|&byte| byte == b' ') {
            Some(end) => Some(self.0.split_to(end)),
            // A line with one key need not be shared.
            None => Some(std::mem::take(&mut self.0)),
        }
    }
}

/// The words of a line that are still to be read. Any number of spaces stands between them.
struct Words<'a>(&'a [u8]);

impl<'a> Iterator for Words<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let start = self.0.iter().position(|&byte| byte != b' ')?;
        let rest = &self.0[start..];
        let (word, rest) = rest.split_at(rest.iter().position(|&byte| byte == b' ').unwrap_or(rest.len()));
        self.0 = rest;
        Some(word)
    }
}

impl<'a> Words<'a> {
    fn word(&mut self) -> Result<&'a [u8], Refusal> {
        self.next().ok_or(UNKNOWN)
    }

    fn key(&mut self) -> Result<Key, Refusal> {
        self.word().and_then(key).map(Key::from)
    }

    fn number<N: FromStr>(&mut self, refusal: Refusal) -> Result<N, Refusal> {
        self.word().and_then(|word| number(word, refusal))
    }

    /// The end of a line that may ask for no answer.
    fn noreply(&mut self) -> Result<bool, Refusal> {
        let noreply = match self.next() {
            None => return Ok(false),
            Some(word) => word == b"noreply",
        };
        if noreply && self.next().is_none() { Ok(true) } else { Err(BAD_FORMAT) }
    }

    /// The same where a number may stand before it; 0 if none does.
    fn delay(&mut self) -> Result<i64, Refusal> {
        match Words(self.0).next() {
            None | Some(b"noreply") => Ok(0),
            Some(_) => self.number(BAD_EXPTIME),
        }
    }
}

fn key(word: &[u8]) -> Result<&[u8], Refusal> {
    // No word has a space in it.
    let fits = word.len() <= MAX_KEY && !word.iter().any(u8::is_ascii_control);
    if fits { Ok(word) } else { Err(BAD_FORMAT) }
}

fn number<N: FromStr>(word: &[u8], refusal: Refusal) -> Result<N, Refusal> {
    str::from_utf8(word).ok().and_then(|word| word.parse().ok()).ok_or(refusal)
}

/// What a line says, and how many bytes of data follow it. The length is known of many a line that is wrong, too: its data
/// must not be taken for commands.
pub(crate) fn parse(line: Bytes) -> (Result<Request, Refusal>, Option<u64>) {
    let mut words = Words(&line);
    let how = match words.next().unwrap_or_default() {
        b"get" => return (get(line, false, false), None),
        b"gets" => return (get(line, true, false), None),
        b"gat" => return (get(line, false, true), None),
        b"gats" => return (get(line, true, true), None),
        b"set" => How::Set,
        b"add" => How::Add,
        b"replace" => How::Replace,
        b"append" => How::Append,
        b"prepend" => How::Prepend,
        b"cas" => How::Cas(0),
        name => return (other(name, words), None),
    };
    let length = Words(words.0).nth(3).and_then(|word| number(word, BAD_FORMAT).ok());
    (store(how, words), length)
}

fn get(mut line: Bytes, with_cas: bool, touch: bool) -> Result<Request, Refusal> {
    let mut words = Words(&line);
    words.next();
    let touch = if touch { Some(words.number(BAD_EXPTIME)?) } else { None };
    let start = line.len() - words.0.len();
    key(words.word()?)?;
    for word in words {
        key(word)?;
    }
    line.advance(start);
    Ok(Request { command: Command::Get { keys: Keys(line), with_cas, touch }, noreply: false })
}

fn store(how: How, mut words: Words<'_>) -> Result<Request, Refusal> {
    let (key, flags, exptime) = (words.key()?, words.number(BAD_FORMAT)?, words.number(BAD_EXPTIME)?);
    words.number::<u64>(BAD_FORMAT)?;
    let how = if how == How::Cas(0) { How::Cas(words.number(BAD_FORMAT)?) } else { how };
    let command = Command::Store(Store { how, key, flags, exptime, value: None });
    Ok(Request { command, noreply: words.noreply()? })
}

fn other(name: &[u8], mut words: Words<'_>) -> Result<Request, Refusal> {
    let command = match name {
        b"delete" => Command::Delete { key: words.key()? },
        b"incr" => Command::Count { key: words.key()?, delta: words.number(BAD_DELTA)?, up: true },
        b"decr" => Command::Count { key: words.key()?, delta: words.number(BAD_DELTA)?, up: false },
        b"touch" => Command::Touch { key: words.key()?, exptime: words.number(BAD_EXPTIME)? },
        b"flush_all" => Command::FlushAll { delay: words.delay()? },
        // As memcached has it: nothing is asked for, and nothing answered.
        b"verbosity" if words.0 == b" noreply" => Command::Verbosity,
        b"verbosity" => words.number::<u32>(BAD_FORMAT).map(|_| Command::Verbosity)?,
        b"stats" | b"version" | b"quit" if words.next().is_some() => return Err(UNKNOWN),
        b"stats" => Command::Stats,
        b"version" => Command::Version,
        b"quit" => Command::Quit,
        _ => return Err(UNKNOWN),
    };
    Ok(Request { command, noreply: words.noreply()? })
}
