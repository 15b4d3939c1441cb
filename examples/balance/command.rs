//! The server's side of memcached's text protocol, as far as commands have keys. Each is checked to the last word: one that the
//! proxy and a memcached understood differently would be answered once too often, and later answers would go to other calls.

use ropewalk::codec::{CodecError, Decoder, Encoder, ErrorKind, LineOrRaw};
use ropewalk::{Bytes, BytesMut, LineRaw, Lines};

const MAX_KEY: usize = 250;
const MAX_VALUE: usize = 1024 * 1024;

/// A client's command.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Command {
    /// `get` or `gets`, and its keys.
    Get(&'static str, Vec<String>),
    /// Any other command with a key: all its bytes without the line end, and whether an answer is wanted.
    Change { key: String, text: Bytes, quiet: bool },
    /// A command that this proxy doesn't know.
    Unknown,
}

/// Commands in, answers out.
#[derive(Clone, Debug)]
pub(crate) struct Commands {
    // As in memcached, a line ends with LF; a CR before it is optional.
    wire: LineRaw,
    /// A command that waits for its data.
    waiting: Option<Change>,
}

/// The words of a command that changes something.
#[derive(Clone, Debug)]
struct Change {
    key: String,
    line: String,
    data: Option<usize>,
    quiet: bool,
}

impl Default for Commands {
    fn default() -> Self {
        Self { wire: LineRaw::new(Lines::any()), waiting: None }
    }
}

/// An error after which nothing is decoded: data may follow whose length is unknown.
fn malformed() -> CodecError {
    CodecError::new(ErrorKind::Parse("the command is malformed".into()))
}

fn is_key(word: &str) -> bool {
    (1..=MAX_KEY).contains(&word.len()) && !word.bytes().any(|byte| byte.is_ascii_control())
}

/// The command of a line, without its data. `None` if it is not known.
fn parse(line: &str) -> Result<Option<Result<Command, Change>>, CodecError> {
    let mut words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
    let verb = match words.first().copied() {
        Some("get") => return get("get", &words[1..]).map(Some),
        Some("gets") => return get("gets", &words[1..]).map(Some),
        Some(verb) => verb,
        None => return Ok(None),
    };
    // How many words follow the key, and which of them may be large.
    let (numbers, large, has_data) = match verb {
        "set" | "add" | "replace" | "append" | "prepend" => (3, false, true),
        "cas" => (4, true, true),
        "incr" | "decr" => (1, true, false),
        "touch" => (1, false, false),
        "delete" => (0, false, false),
        _ => return Ok(None),
    };
    let quiet = words.last() == Some(&"noreply") && words.len() == numbers + 3;
    words.truncate(words.len() - usize::from(quiet));
    let key = words.get(1).copied().filter(|word| is_key(word)).ok_or_else(malformed)?;
    let rest = &words[2..];
    let fits = |(i, word): (usize, &&str)| match i == numbers - 1 && large {
        true => word.parse::<u64>().is_ok(),
        false => word.parse::<u32>().is_ok_and(|n| n <= i32::MAX as u32),
    };
    if rest.len() != numbers || !rest.iter().enumerate().all(fits) {
        return Err(malformed());
    }
    let data =
        has_data.then(|| rest[2].parse().ok().filter(|length| *length <= MAX_VALUE)).map(|n| n.ok_or_else(malformed));
    let (key, line, data) = (key.to_owned(), words.join(" "), data.transpose()?);
    Ok(Some(Err(Change { key, line, data, quiet })))
}

fn get(verb: &'static str, keys: &[&str]) -> Result<Result<Command, Change>, CodecError> {
    let good = !keys.is_empty() && keys.iter().all(|key| is_key(key));
    let keys = keys.iter().map(|key| (*key).to_owned()).collect();
    if good { Ok(Ok(Command::Get(verb, keys))) } else { Err(malformed()) }
}

impl Change {
    fn with(self, data: &[u8]) -> Result<Command, CodecError> {
        let data = match self.data {
            Some(_) => [b"\r\n", data.strip_suffix(b"\r\n").ok_or_else(malformed)?].concat(),
            None => Vec::new(),
        };
        let text = [self.line.as_bytes(), &data].concat().into();
        Ok(Command::Change { key: self.key, text, quiet: self.quiet })
    }
}

impl Decoder for Commands {
    type Item = Command;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Command>, CodecError> {
        loop {
            match self.wire.decode(src)? {
                None => return Ok(None),
                Some(LineOrRaw::Raw(data)) => {
                    return self.waiting.take().map(|change| change.with(&data)).transpose();
                }
                Some(LineOrRaw::Line(line)) => match parse(std::str::from_utf8(&line).map_err(|_| malformed())?)? {
                    None => return Ok(Some(Command::Unknown)),
                    Some(Ok(get)) => return Ok(Some(get)),
                    Some(Err(change)) => match change.data {
                        None => return change.with(&[]).map(Some),
                        Some(length) => {
                            self.wire.raw_whole(length + 2);
                            self.waiting = Some(change);
                        }
                    },
                },
            }
        }
    }
}

impl Encoder<Bytes> for Commands {
    type Error = CodecError;

    fn encode(&mut self, answer: Bytes, dst: &mut BytesMut) -> Result<(), CodecError> {
        dst.extend_from_slice(&answer);
        Ok(())
    }
}
