//! Lines against a decoder that sees the whole stream.

use bytes::BytesMut;
use ropewalk_codecs::Lines;
use tokio_util::codec::Encoder;

use super::drive::{Drive, Event, Expect, Fault, Kind, every_cut, same_bytes};
use super::input::{Cuts, Input};
use super::lent::lent;

/// The delimiters with which a delimiter can overlap itself, or share a byte with a line's end.
const DELIMITERS: [&[u8]; 8] = [b"\r\n", b"\n", b"\n", b"-", b"aa", b"-=-", b"\r\n.\r\n", b"abab"];

/// Which of them is LF with an optional CR before it.
const ANY: usize = 2;

/// The kind of lines, as the naive decoder has it.
#[derive(Clone, Copy)]
pub struct Rules {
    delimiter: &'static [u8],
    any: bool,
    max: usize,
    skip: bool,
    last: bool,
}

/// What comes next in a stream.
pub enum Step {
    /// A line or an error.
    Event(Event),
    /// A line that is too long and skipped, which ends at the second offset if it does.
    Skipped(Event, Option<usize>),
    End,
}

impl Rules {
    pub fn new(input: &Input<'_>) -> Self {
        let which = usize::from(input.options & 7);
        Self {
            delimiter: DELIMITERS[which],
            any: which == ANY,
            max: input.max().min(isize::MAX as usize / 2),
            skip: input.options & 8 != 0,
            last: input.options & 16 != 0,
        }
    }

    pub fn codec(&self, input: &Input<'_>) -> Lines {
        let lines = match usize::from(input.options & 7) {
            0 => Lines::crlf(),
            1 => Lines::lf(),
            ANY => Lines::any(),
            which => Lines::delimited(DELIMITERS[which]),
        };
        let lines = if self.skip { lines.skip_too_long() } else { lines };
        let lines = if self.last { lines.final_line() } else { lines };
        if input.max() == usize::MAX { lines.unlimited() } else { lines.max(self.max) }
    }

    /// The same with a limit of at least `n`.
    pub fn at_least(self, n: usize) -> Self {
        Self { max: self.max.max(n), ..self }
    }

    /// The delimiter of a line that is encoded.
    pub fn delimiter(&self) -> &'static [u8] {
        self.delimiter
    }

    /// The most a decoder may leave unread: of a line that is skipped a byte, to show that it goes
    /// on.
    pub fn holds(&self) -> usize {
        (self.max + self.longest_delimiter().len() - 1).max(usize::from(self.skip))
    }

    fn longest_delimiter(&self) -> &'static [u8] {
        if self.any { b"\r\n" } else { self.delimiter }
    }

    /// How long the first line of `rest` is, and where its delimiter ends.
    fn find(&self, rest: &[u8]) -> Option<(usize, usize)> {
        let (first, len) = (self.delimiter[0], self.delimiter.len());
        let at = (0..rest.len())
            .find(|&at| rest[at] == first && rest[at..].starts_with(self.delimiter))?;
        let cr = usize::from(self.any && at > 0 && rest[at - 1] == b'\r');
        Some((at - cr, at + len))
    }

    /// Whether `rest`, in which no delimiter is, could go on so that one begins within the limit.
    fn may_yet_be_short(&self, rest: &[u8]) -> bool {
        let delimiter = self.longest_delimiter();
        let first = rest.len().saturating_sub(delimiter.len() - 1);
        rest.len() <= self.max || (first..=self.max).any(|at| delimiter.starts_with(&rest[at..]))
    }

    /// What comes next in a stream from `at`.
    pub fn step(&self, stream: &[u8], at: usize) -> Step {
        let rest = &stream[at..];
        let len = stream.len();
        // At the end a CR is taken for the first half of CR LF.
        let content = rest.len() - usize::from(self.last && self.any && rest.ends_with(b"\r"));
        match self.find(rest) {
            Some((line, end)) if line <= self.max => {
                Step::Event(Event::frame(at, at + line, at + end))
            }
            None if rest.is_empty() => Step::End,
            None if self.may_yet_be_short(rest) && !self.last => {
                Step::Event(Event::truncated(at, len))
            }
            None if content <= self.max => Step::Event(match self.last {
                true => Event::frame(at, at + content, len),
                false => Event::truncated(at, len),
            }),
            _ => self.too_long(stream, at + self.max),
        }
    }

    fn too_long(&self, stream: &[u8], over: usize) -> Step {
        let fault =
            Fault { kind: Kind::TooLong(self.max), offset: Some(over as u64), fatal: !self.skip };
        let event = Event::Error { fault, end: over };
        if !self.skip {
            return Step::Event(event);
        }
        Step::Skipped(event, self.find(&stream[over..]).map(|(_, end)| over + end))
    }

    /// All that is in a stream.
    pub fn decode(&self, stream: &[u8]) -> Vec<Event> {
        let mut events = Vec::with_capacity(16);
        let mut at = 0;
        loop {
            let event = match self.step(stream, at) {
                Step::End => return events,
                Step::Event(event) => event,
                Step::Skipped(event, resumed) => {
                    events.push(event);
                    let Some(end) = resumed else { return events };
                    at = end;
                    continue;
                }
            };
            events.push(event);
            match event {
                Event::Frame { end, .. } => at = end,
                _ => return events,
            }
        }
    }

    /// Why a line can't be encoded: it would not be read back.
    pub fn refusal(&self, line: &[u8]) -> Option<Kind> {
        if line.len() > self.max {
            return Some(Kind::TooLong(self.max));
        }
        // As if the delimiter were there, of which the last byte is the last at which an earlier
        // one can end.
        let mut sent = Vec::with_capacity(line.len() + 8);
        sent.extend_from_slice(line);
        sent.extend_from_slice(self.delimiter);
        (self.find(&sent) != Some((line.len(), sent.len()))).then_some(Kind::DelimiterInFrame)
    }
}

/// Lines with any settings, in any segmentation; and back.
pub fn lines(data: &[u8]) {
    let Some(input) = Input::new(data) else { return };
    let rules = Rules::new(&input);
    let mut codec = rules.codec(&input);
    let expected = rules.decode(input.stream);
    every_cut(&codec, &input, &expected, rules.holds(), same_bytes);
    lent(&codec, &input, &expected, rules.holds());

    let mut sent = BytesMut::with_capacity(64);
    let mut events = Vec::with_capacity(8);
    let mut encoder = codec.clone();
    for piece in input.pieces() {
        let before = sent.len();
        let result = encoder.encode(piece, &mut sent);
        let fault = result.as_ref().err().map(Fault::from);
        assert_eq!(
            fault.map(|fault| fault.kind),
            rules.refusal(piece),
            "encoding {:?}",
            piece.escape_ascii()
        );
        if let Some(fault) = fault {
            assert_eq!(
                (fault.offset, sent.len()),
                (None, before),
                "a refused line leaves nothing behind"
            );
            continue;
        }
        let end = before + piece.len();
        assert!(
            sent[before..].starts_with(piece) && sent[end..] == *rules.delimiter,
            "another line was written"
        );
        events.push(Event::frame(before, end, sent.len()));
    }
    let mut expect = Expect::new(&sent, &events, same_bytes);
    let drive = Drive { cuts: Cuts::Whole, moves: false, holds: rules.holds() };
    drive.run(&mut codec, &sent, &mut expect);
    expect.end();
}
