//! Frames of other types, on lines, netstrings and length prefixes.

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use ropewalk_codecs::{CodecError, CodecExt, Lines};
use tokio_util::codec::{Decoder, Encoder};

use super::drive::{Event, Fault, Kind, every_cut};
use super::input::Input;
use super::{length_prefixed, lines, netstring};

/// Frames made of any bytes that do not begin with `!`.
struct Calm(Bytes);

impl TryFrom<Bytes> for Calm {
    type Error = &'static str;

    fn try_from(bytes: Bytes) -> Result<Self, Self::Error> {
        if bytes.starts_with(b"!") { Err("too loud") } else { Ok(Self(bytes)) }
    }
}

/// The digest of a frame that is neither refused nor long: enough to tell two frames from one
/// another.
fn digest(bytes: &[u8]) -> (usize, u64) {
    let mix = |sum: u64, byte: &u8| sum.rotate_left(9) ^ u64::from(*byte);
    (bytes.len(), bytes.iter().fold(7, mix))
}

fn short(bytes: &[u8]) -> Result<(usize, u64), &'static str> {
    if bytes.len() > 4 { Err("too long to be short") } else { Ok(digest(bytes)) }
}

/// Turns the frames that `refuses` gives a reason for into recoverable errors. The reason is an
/// offset into the frame, which stands where the frame itself begins, or `None` for a frame that
/// does not parse, which is placed where the last frame or error ended.
fn refuse(
    events: &mut [Event],
    stream: &[u8],
    refuses: impl Fn(&[u8], &[u8]) -> Option<(Kind, Option<usize>)>,
) {
    let mut last = 0;
    for event in events {
        let start = last;
        match *event {
            Event::Frame { header, body, end } => {
                last = end;
                let parts = (&stream[header.0..header.1], &stream[body.0..body.1]);
                if let Some((kind, index)) = refuses(parts.0, parts.1) {
                    let offset = index.map_or(start, |index| body.0 + index) as u64;
                    *event = Event::Error {
                        fault: Fault { kind, offset: Some(offset), fatal: false },
                        end,
                    };
                }
            }
            Event::Error { end, .. } => last = end,
            Event::Raw(_) => {}
        }
    }
}

/// A base codec and what it should give.
struct Subject<'a, C> {
    codec: C,
    input: Input<'a>,
    events: Vec<Event>,
    holds: usize,
}

impl<C> Subject<'_, C>
where
    C: Decoder<Item = Bytes, Error = CodecError> + Encoder<Bytes, Error = CodecError> + Clone,
{
    fn refuse(&mut self, refuses: impl Fn(&[u8], &[u8]) -> Option<Kind>) {
        refuse(&mut self.events, self.input.stream, |header, body| {
            refuses(header, body).map(|kind| (kind, None))
        });
    }

    fn gives<D: Decoder<Error = CodecError> + Clone>(
        &self,
        codec: &D,
        same: fn(&D::Item, &[u8]) -> bool,
    ) {
        // Of a codec without headers, as all are here.
        every_cut(codec, &self.input, &self.events, self.holds, |item, _, body| same(item, body));
    }

    /// Encoding is the base codec's.
    fn encodes<D: Encoder<Bytes, Error = CodecError>>(&self, mut codec: D) {
        let (mut ours, mut theirs) = (BytesMut::with_capacity(64), BytesMut::with_capacity(64));
        let mut base = self.codec.clone();
        for piece in self.input.pieces() {
            let piece = Bytes::copy_from_slice(piece);
            let expected =
                base.encode(piece.clone(), &mut theirs).map_err(|error| Fault::from(&error));
            let result = codec.encode(piece, &mut ours).map_err(|error| Fault::from(&error));
            assert_eq!(result, expected);
            assert_eq!(ours, theirs);
        }
    }

    fn check(mut self) {
        let base = self.codec.clone();
        let loud = |_: &[u8], body: &[u8]| body.starts_with(b"!").then_some(Kind::Parse);
        let long = |_: &[u8], body: &[u8]| (body.len() > 4).then_some(Kind::Parse);
        match self.input.more & 7 {
            0 | 1 => {
                self.refuse(loud);
                let codec = base.parse::<Calm>();
                self.gives(&codec, |calm, body| calm.0 == body);
                self.encodes(codec);
            }
            2 => {
                let codec = base.map(|frame: Bytes| digest(&frame));
                self.gives(&codec, |seen, body| *seen == digest(body));
                self.encodes(codec);
            }
            3 => {
                self.refuse(long);
                let codec = base.try_map(|frame: Bytes| short(&frame));
                self.gives(&codec, |seen, body| *seen == digest(body));
                self.encodes(codec);
            }
            4 | 5 => {
                self.refuse(|header, body| loud(header, body).or_else(|| long(header, body)));
                let codec = base
                    .map(|frame: Bytes| frame)
                    .parse::<Calm>()
                    .try_map(|calm: Calm| short(&calm.0));
                self.gives(&codec, |seen, body| *seen == digest(body));
                self.encodes(codec);
            }
            _ => self.check_json(),
        }
    }

    #[cfg(not(feature = "json"))]
    fn check_json(&self) {}

    #[cfg(feature = "json")]
    fn check_json(mut self) {
        self.refuse(|_, body| json_number(body).is_none().then_some(Kind::Parse));
        let codec = self.codec.clone().json::<u32>();
        self.gives(&codec, |number, body| Some(*number) == json_number(body));

        let (mut sent, mut expected) = (BytesMut::with_capacity(64), BytesMut::with_capacity(64));
        let (mut encoder, mut decoder, mut base) = (codec.clone(), codec, self.codec.clone());
        for piece in self.input.pieces() {
            let number = piece.iter().fold(0, |number: u32, byte| number << 7 ^ u32::from(*byte));
            let plain = base.encode(Bytes::from(number.to_string()), &mut expected);
            let result = encoder.encode(number, &mut sent);
            assert_eq!(result.is_ok(), plain.is_ok());
            assert_eq!(sent, expected);
            if result.is_ok() {
                let mut read = sent.split();
                expected.clear();
                assert!(
                    matches!(decoder.decode(&mut read), Ok(Some(back)) if back == number),
                    "{number} comes back"
                );
            }
        }
    }
}

/// A whole number without a sign, as JSON writes it: with blanks around it, and without a leading
/// 0.
#[cfg(feature = "json")]
fn json_number(text: &[u8]) -> Option<u32> {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    let start = text.iter().position(|byte| !blank(byte))?;
    let end = text.iter().rposition(|byte| !blank(byte))? + 1;
    let digits = &text[start..end];
    if digits.len() > 1 && digits[0] == b'0' {
        return None;
    }
    digits.iter().try_fold(0_u32, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u32::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Lines as strings.
fn utf8(codec: Lines, input: &Input<'_>, rules: &lines::Rules) {
    let mut events = rules.decode(input.stream);
    refuse(&mut events, input.stream, |_, body| {
        let error = std::str::from_utf8(body).err()?;
        Some((Kind::InvalidUtf8, Some(error.valid_up_to())))
    });
    let codec = codec.utf8();
    every_cut(&codec, input, &events, rules.holds(), |line: &ByteString, _, body| {
        line.as_bytes() == body
    });

    let mut sent = BytesMut::with_capacity(64);
    let mut encoder = codec.clone();
    for piece in input.pieces() {
        let Ok(text) = std::str::from_utf8(piece) else { continue };
        let kind = encoder.encode(text, &mut sent).err().map(|error| Fault::from(&error).kind);
        assert_eq!(kind, rules.refusal(piece));
        match (codec.clone().decode(&mut sent), kind) {
            (Ok(Some(back)), None) => assert_eq!(back, text),
            (Ok(None), Some(_)) => assert!(sent.is_empty(), "a refused line leaves nothing behind"),
            (other, _) => panic!("{text:?} comes back as {other:?}"),
        }
    }
}

/// Every combinator on every kind of codec, in any segmentation; and back.
pub fn combinators(data: &[u8]) {
    let Some(mut input) = Input::new(data) else { return };
    match input.options >> 5 {
        kind @ 0..=3 => {
            let rules = lines::Rules::new(&input);
            let codec = rules.codec(&input);
            if kind == 0 {
                return utf8(codec, &input, &rules);
            }
            Subject { codec, input, events: rules.decode(input.stream), holds: rules.holds() }
                .check();
        }
        4 | 5 => {
            let max = input.max();
            let events = netstring::decode(max, input.stream);
            Subject {
                codec: netstring::codec(&input),
                input,
                events,
                holds: netstring::holds(max),
            }
            .check();
        }
        _ => {
            let more = std::mem::replace(&mut input.more, 0);
            let rules = length_prefixed::Rules::new(&input);
            input.more = more;
            let Some(rules) = rules else { return };
            let events = rules.decode(input.stream);
            Subject { codec: rules.codec(), input, events, holds: rules.holds() }.check();
        }
    }
}
