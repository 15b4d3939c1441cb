//! Requests to answers.

use std::sync::Arc;

use futures::stream;
use ropewalk::{Bytes, CodecError, Error, ErrorKind, Reply};

use super::cache::Cache;
use super::codec::Answer;
use super::request::{Command, Keys, Request};

pub(crate) fn answer(cache: &Arc<Cache>, request: Request) -> Reply<Answer> {
    let answer = match request.command {
        Command::Get { keys, with_cas, touch } => return get(cache, keys, with_cas, touch),
        Command::Store(store) => Answer::Line(cache.store(store)),
        Command::Delete { key } => Answer::Line(cache.delete(&key)),
        Command::Count { key, delta, up } => cache.count(key, delta, up).map_or_else(Answer::Line, Answer::Number),
        Command::Touch { key, exptime } => Answer::Line(cache.touch(&key, exptime)),
        Command::FlushAll { delay } => Answer::Line(cache.flush_all(delay)),
        Command::Stats => Answer::Text(cache.stats()),
        Command::Version => Answer::Line(concat!("VERSION ", env!("CARGO_PKG_VERSION"))),
        Command::Verbosity => Answer::Line("OK"),
        Command::Quit => return Reply::none().then_close(),
    };
    if request.noreply { Reply::none() } else { Reply::one(answer) }
}

fn get(cache: &Arc<Cache>, mut keys: Keys, with_cas: bool, touch: Option<i64>) -> Reply<Answer> {
    let find = move |cache: &Cache, key: Bytes, last| {
        cache.get(&key, touch).map(|item| Answer::Value { key, item, with_cas, last })
    };
    let first = keys.next().unwrap_or_default();
    if keys.is_empty() {
        return Reply::one(find(cache, first, true).unwrap_or(Answer::Line("END")));
    }
    // Looked up when there is room for them: what the cache lets go must not live on in an answer nobody reads.
    let cache = Arc::clone(cache);
    let values = std::iter::once(first).chain(keys).filter_map(move |key| find(&cache, key, false));
    Reply::stream(stream::iter(values.chain([Answer::Line("END")]).map(Ok)))
}

/// What is told of what was no request. After all but the end of the stream the connection goes on.
pub(crate) fn refuse(error: &Error) -> Reply<Answer> {
    match error.downcast_ref().map(CodecError::kind) {
        Some(ErrorKind::Parse(refusal)) => Reply::one(Answer::Text(refusal.to_string())),
        Some(ErrorKind::TooLong { .. }) => Reply::one(Answer::Line("CLIENT_ERROR line too long")),
        _ => Reply::none().then_close(),
    }
}
