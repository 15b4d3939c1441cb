//! Length prefixes against a decoder that sees the whole stream.

use bytes::BytesMut;
use ropewalk_codecs::LengthPrefixed;
use tokio_util::codec::Encoder;

use super::drive::{Drive, Event, Expect, Fault, Kind, every_cut, same_bytes};
use super::input::{Cuts, Input};
use super::lent::lent;

/// Bytes of a prefix; 0 stands for a varint.
const WIDTHS: [u32; 8] = [1, 2, 3, 4, 8, 0, 0, 1];

/// What is added to a length, in the order of the bits that choose it.
const ADJUSTS: [i64; 8] = [0, 1, -1, -2, 5, i64::MIN, i64::MAX, 1000];

/// A length prefix, as the naive decoder has it. All sums are of 128 bits, so no sum overflows.
#[derive(Clone, Copy)]
pub struct Rules {
    width: u32,
    little: bool,
    inclusive: bool,
    header: usize,
    adjust: i64,
    max: usize,
}

impl Rules {
    /// `None` if there is no such codec.
    pub fn new(input: &Input<'_>) -> Option<Self> {
        let width = WIDTHS[usize::from(input.options & 7)];
        let rules = Self {
            width,
            little: input.options & 8 != 0 && width > 0,
            inclusive: input.options & 16 != 0 && width > 0,
            header: usize::from(input.more & 3),
            adjust: ADJUSTS[usize::from(input.more >> 2 & 7)],
            max: input.max().min(isize::MAX as usize / 2),
        };
        let shortest = rules.header as i128 + rules.beyond().max(0);
        let longest = i128::from(rules.largest()) + rules.beyond() + rules.header as i128;
        (shortest <= rules.max as i128 && shortest <= longest).then_some(rules)
    }

    pub fn codec(&self) -> LengthPrefixed {
        let codec = match self.width {
            0 => LengthPrefixed::varint(),
            1 => LengthPrefixed::u8(),
            2 => LengthPrefixed::u16(),
            3 => LengthPrefixed::u24(),
            4 => LengthPrefixed::u32(),
            _ => LengthPrefixed::u64(),
        };
        let codec = codec.max(self.max);
        let codec = if self.little { codec.little_endian() } else { codec };
        let codec = if self.inclusive { codec.inclusive() } else { codec };
        codec.header(self.header).adjust(self.adjust)
    }

    /// The most a decoder may leave unread.
    pub fn holds(&self) -> usize {
        self.max + if self.width == 0 { 10 } else { self.width as usize } - 1
    }

    /// How many more bytes follow than the number on the wire says.
    fn beyond(&self) -> i128 {
        i128::from(self.adjust) - if self.inclusive { i128::from(self.width) } else { 0 }
    }

    fn largest(&self) -> u64 {
        if self.width == 0 { u64::MAX } else { u64::MAX >> (64 - 8 * self.width) }
    }

    /// The number that `bytes` begin with and its size, `None` if it has not come; or where it goes
    /// wrong.
    fn number(&self, bytes: &[u8]) -> Result<Option<(u64, usize)>, usize> {
        if self.width == 0 {
            return varint(bytes);
        }
        let width = self.width as usize;
        let Some(bytes) = bytes.get(..width) else { return Ok(None) };
        let weight = |index: usize| 8 * if self.little { index } else { width - 1 - index };
        let number =
            bytes.iter().enumerate().map(|(index, byte)| u64::from(*byte) << weight(index)).sum();
        Ok(Some((number, width)))
    }

    fn one(&self, stream: &[u8], at: usize) -> Event {
        let start = at + self.header;
        let truncated = Event::truncated(at, stream.len());
        let Some(rest) = stream.get(start..) else { return truncated };
        let (number, width) = match self.number(rest) {
            Ok(Some(read)) => read,
            Ok(None) => return truncated,
            Err(index) => return Event::fatal(Kind::BadLength, start + index),
        };
        let follow = i128::from(number) + self.beyond();
        if follow < 0 {
            return Event::fatal(Kind::BadLength, start);
        }
        if follow + self.header as i128 > self.max as i128 {
            return Event::fatal(Kind::TooLong(self.max), start);
        }
        let body = start + width;
        match usize::try_from(follow) {
            Ok(follow) if follow <= stream.len() - body => Event::Frame {
                header: (at, start),
                body: (body, body + follow),
                end: body + follow,
            },
            _ => truncated,
        }
    }

    /// All that is in a stream.
    pub fn decode(&self, stream: &[u8]) -> Vec<Event> {
        let mut events = Vec::with_capacity(16);
        let mut at = 0;
        while at < stream.len() {
            let event = self.one(stream, at);
            events.push(event);
            match event {
                Event::Frame { end, .. } => at = end,
                _ => break,
            }
        }
        events
    }

    /// The number that announces a frame, or why there is none.
    fn announced(&self, frame: &[u8]) -> Result<u64, Kind> {
        let number = frame.len() as i128 - self.header as i128 - self.beyond();
        let longest = i128::from(self.largest()) + self.beyond() + self.header as i128;
        match u64::try_from(number) {
            _ if frame.len() > self.max => Err(Kind::TooLong(self.max)),
            _ if frame.len() as i128 > longest => {
                Err(Kind::TooLong(usize::try_from(longest).unwrap_or(self.max)))
            }
            Ok(number) if frame.len() >= self.header => Ok(number),
            _ => Err(Kind::BadLength),
        }
    }
}

/// LEB128 of at most ten bytes and 64 bits, in its shortest form.
fn varint(bytes: &[u8]) -> Result<Option<(u64, usize)>, usize> {
    let mut number = 0_u128;
    for (index, &byte) in bytes.iter().enumerate() {
        number |= u128::from(byte & 127) << (7 * index);
        let whole = byte < 128;
        let too_much = number > u128::from(u64::MAX) || (index == 9 && !whole);
        if too_much || (whole && index > 0 && byte == 0) {
            return Err(index);
        }
        if let (true, Ok(number)) = (whole, u64::try_from(number)) {
            return Ok(Some((number, index + 1)));
        }
    }
    Ok(None)
}

/// Length prefixes with any settings, in any segmentation; and back.
pub fn length_prefixed(data: &[u8]) {
    let Some(input) = Input::new(data) else { return };
    let Some(rules) = Rules::new(&input) else { return };
    let mut codec = rules.codec();
    let expected = rules.decode(input.stream);
    every_cut(&codec, &input, &expected, rules.holds(), same_bytes);
    if rules.header == 0 {
        lent(&codec, &input, &expected, rules.holds());
    }

    let mut sent = BytesMut::with_capacity(64);
    let mut events = Vec::with_capacity(8);
    let mut encoder = codec.clone();
    for piece in input.pieces() {
        let before = sent.len();
        let result = encoder.encode(piece, &mut sent);
        let announced = rules.announced(piece);
        if let Err(error) = result {
            assert_eq!(
                Some(Fault::from(&error).kind),
                announced.err(),
                "encoding {:?}",
                piece.escape_ascii()
            );
            assert_eq!(
                (error.offset(), sent.len()),
                (None, before),
                "a refused frame leaves nothing behind"
            );
            continue;
        }
        let (body, end) = (before + rules.header, sent.len());
        let width = end - before - piece.len();
        assert_eq!(
            rules.number(&sent[body..]),
            announced.map(|number| Some((number, width))).or(Ok(None))
        );
        assert!(
            sent[before..body] == piece[..rules.header]
                && sent[body + width..] == piece[rules.header..]
        );
        events.push(Event::Frame { header: (before, body), body: (body + width, end), end });
    }
    let mut expect = Expect::new(&sent, &events, same_bytes);
    Drive { cuts: Cuts::Whole, moves: false, holds: rules.holds() }.run(
        &mut codec,
        &sent,
        &mut expect,
    );
    expect.end();
}
