//! Requests to answers.

use std::borrow::Cow;
use std::iter;
use std::str::{self, FromStr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Buf;
use ropewalk::codec::{CodecError, ErrorKind};
use ropewalk::{Bytes, Error, Reply};
use tokio::time::Instant;

use super::cache::{Cache, Item, VERSION, lock};
use super::codec::{Answer, END, MAX_LENGTH, MAX_VALUE, Request};

/// The longest key, in bytes.
const MAX_KEY: usize = 250;
/// A time up to this counts from now, one beyond it is a Unix time.
const RELATIVE: Duration = Duration::from_secs(60 * 60 * 24 * 30);

const BAD_FORMAT: &str = "CLIENT_ERROR bad command line format";
const TOO_LARGE: &str = "SERVER_ERROR object too large for cache";

/// The result of a command, or the error line for its client.
type Result<T> = std::result::Result<T, &'static str>;

pub(crate) fn answer(cache: &Arc<Mutex<Cache>>, Request { line, data }: Request) -> Reply<Answer> {
    let words = line.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    // One more than any command has, but a `get`.
    let words: Vec<&[u8]> = words.take(8).collect();
    let reply = match &words[..] {
        [b"get" | b"gets", _, ..] | [b"gat" | b"gats", _, _, ..] => get(cache, line),
        [b"quit"] => return Reply::none().then_close(),
        // HTTP, whose headers and body are not commands.
        [[b'A'..=b'Z', ..], ..]
            if line.rsplit(|&byte| byte == b' ').next().is_some_and(|word| word.starts_with(b"HTTP/")) =>
        {
            return Reply::one(Answer::Line("CLIENT_ERROR this is memcached".into())).then_close();
        }
        // With fewer words it is a key that is called so.
        [command @ .., b"noreply"] if words.len() > 2 || matches!(command, [b"flush_all" | b"verbosity"]) => {
            let _ = carry_out(&mut lock(cache), command, data);
            return Reply::none();
        }
        command => carry_out(&mut lock(cache), command, data).map(|said| Reply::one(Answer::Line(said))),
    };
    reply.unwrap_or_else(|refusal| Reply::one(Answer::Line(refusal.into())))
}

/// Carries out a command, and returns the answer. `data` is `None` if it was too large.
fn carry_out(cache: &mut Cache, command: &[&[u8]], data: Option<Bytes>) -> Result<Cow<'static, str>> {
    let said = match *command {
        [how @ (b"set" | b"add" | b"replace" | b"append" | b"prepend"), key, flags, time, length] => {
            store(cache, how, [key, flags, time, length, b"0"], data)?
        }
        [b"cas", key, flags, time, length, cas] => store(cache, b"cas", [key, flags, time, length, cas], data)?,
        // The 0 is what old clients send: the seconds in which the key could not be added anew.
        [b"delete", key] | [b"delete", key, b"0"] => {
            cache.find(valid(key)?).ok_or("NOT_FOUND")?;
            cache.remove(key);
            "DELETED"
        }
        [b"delete", _, ..] => return Err(BAD_FORMAT),
        [b"incr", key, delta] => return count(cache, key, delta, u64::wrapping_add),
        [b"decr", key, delta] => return count(cache, key, delta, u64::saturating_sub),
        [b"touch", key, time] => {
            let (key, expires) = (valid(key)?, deadline(time)?);
            cache.find(key).ok_or("NOT_FOUND")?.expires = expires;
            "TOUCHED"
        }
        [b"flush_all"] => cache.flush_all(None),
        [b"flush_all", delay] => cache.flush_all(deadline(delay)?),
        [b"verbosity", level] => number::<u32>(level, BAD_FORMAT).map(|_| "OK")?,
        [b"stats", b"reset"] => cache.reset(),
        [b"stats", ref list @ ..] => return cache.stats(&list.join(&b' ')).map(Cow::from).ok_or("ERROR"),
        [b"version"] => return Ok(format!("VERSION {VERSION}").into()),
        _ => return Err("ERROR"),
    };
    Ok(said.into())
}

fn store(cache: &mut Cache, how: &[u8], words: [&[u8]; 5], data: Option<Bytes>) -> Result<&'static str> {
    let [key, flags, time, length, cas] = words;
    let (cas, key, flags) = (number(cas, BAD_FORMAT)?, valid(key)?, number(flags, BAD_FORMAT)?);
    let (expires, 0..=MAX_LENGTH) = (deadline(time)?, number(length, BAD_FORMAT)?) else { return Err(BAD_FORMAT) };
    let Some(data) = data else {
        if how == b"set" {
            // The value that it was to replace is out of date.
            cache.remove(key);
        }
        return Err(TOO_LARGE);
    };
    let value = data.strip_suffix(END).ok_or("CLIENT_ERROR bad data chunk")?;
    cache.sets += 1;
    let (old, joined) = (cache.find(key), |parts: [&[u8]; 2]| Bytes::from(parts.concat()));
    let item = match (how, old) {
        (b"add", Some(_)) | (b"replace" | b"append" | b"prepend", None) => return Ok("NOT_STORED"),
        (b"append", Some(old)) => Item { value: joined([&old.value, value]), ..old.clone() },
        (b"prepend", Some(old)) => Item { value: joined([value, &old.value]), ..old.clone() },
        (b"cas", None) => return Ok("NOT_FOUND"),
        (b"cas", Some(old)) if cas != old.cas => return Ok("EXISTS"),
        // Of its own size: it will be kept for long.
        _ => Item { value: Bytes::copy_from_slice(value), flags, cas, expires },
    };
    if item.value.len() > MAX_VALUE { Err(TOO_LARGE) } else { cache.put(key, item).map(|()| "STORED") }
}

/// A number made another.
fn count(cache: &mut Cache, key: &[u8], delta: &[u8], change: fn(u64, u64) -> u64) -> Result<Cow<'static, str>> {
    let delta = number(delta, "CLIENT_ERROR invalid numeric delta argument")?;
    let item = cache.find(valid(key)?).cloned().ok_or("NOT_FOUND")?;
    let n = number(&item.value, "CLIENT_ERROR cannot increment or decrement non-numeric value")?;
    let n = change(n, delta).to_string();
    cache.put(key, Item { value: n.clone().into(), ..item }).map(|()| n.into())
}

/// The values of the keys. Verbs with an `s` add their versions; the `gat`s come with a new time until which they are kept.
fn get(cache: &Arc<Mutex<Cache>>, mut keys: Bytes) -> Result<Reply<Answer>> {
    let verb = word(&mut keys).unwrap_or_default();
    let with_cas = verb.ends_with(b"s");
    let time = if verb.starts_with(b"gat") { word(&mut keys) } else { None };
    let expires = time.map(|time| deadline(&time)).transpose()?;
    keys.split(|&byte| byte == b' ').try_for_each(|key| valid(key).map(drop))?;
    let cache = Arc::clone(cache);
    // Looked up when there is room for them: a value the cache drops must not live on in an unread answer.
    Ok(Reply::iter(iter::from_fn(move || {
        let key = word(&mut keys)?;
        let (item, last) = (lock(&cache).get(&key, expires), keys.iter().all(|&byte| byte == b' '));
        Some(Answer::Value { key, item, with_cas, last })
    })))
}

/// The next word of a line, with any number of spaces before it.
fn word(line: &mut Bytes) -> Option<Bytes> {
    line.advance(line.iter().position(|&byte| byte != b' ')?);
    let end = line.iter().position(|&byte| byte == b' ').unwrap_or(line.len());
    Some(line.split_to(end))
}

fn valid(key: &[u8]) -> Result<&[u8]> {
    let is_valid = key.len() <= MAX_KEY && !key.iter().any(u8::is_ascii_control);
    if is_valid { Ok(key) } else { Err(BAD_FORMAT) }
}

fn number<N: FromStr>(word: &[u8], refusal: &'static str) -> Result<N> {
    str::from_utf8(word).ok().and_then(|word| word.parse().ok()).ok_or(refusal)
}

/// When something expires: 0 is never, less is at once.
fn deadline(time: &[u8]) -> Result<Option<Instant>> {
    let time: i64 = number(time, "CLIENT_ERROR invalid exptime argument")?;
    let (seconds, unix) = (Duration::from_secs(time.max(0).unsigned_abs()), SystemTime::UNIX_EPOCH.elapsed());
    let wait = if seconds > RELATIVE { seconds.saturating_sub(unix.unwrap_or_default()) } else { seconds };
    // What is beyond the clock's range never comes.
    Ok(Instant::now().checked_add(wait).filter(|_| time != 0))
}

/// The answer to bytes that aren't a request, before the connection ends.
pub(crate) fn refuse(error: &Error) -> Reply<Answer> {
    let what = match error.downcast_ref::<CodecError>().map(CodecError::kind) {
        Some(ErrorKind::TooLong { .. }) => "CLIENT_ERROR line too long",
        Some(ErrorKind::Parse(_)) => "CLIENT_ERROR only the text protocol is served here",
        _ => return Reply::none().then_close(),
    };
    Reply::one(Answer::Line(what.into())).then_close()
}
