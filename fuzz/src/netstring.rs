//! Netstrings against a decoder that sees the whole stream.

use bytes::BytesMut;
use ropewalk_codecs::Netstring;
use tokio_util::codec::Encoder;

use super::drive::{Drive, Event, Expect, Fault, Kind, every_cut, same_bytes};
use super::input::{Cuts, Input};
use super::lent::lent;

/// The largest limit that is kept as it is.
const LARGEST: usize = isize::MAX as usize / 2;

pub fn codec(input: &Input<'_>) -> Netstring {
    match input.max() {
        usize::MAX => Netstring::new().unlimited(),
        max => Netstring::new().max(max),
    }
}

/// The most a decoder may leave unread: the digits of the limit, the colon and the frame.
pub fn holds(max: usize) -> usize {
    20 + 1 + max.min(LARGEST)
}

/// All that is in a stream.
pub fn decode(max: usize, stream: &[u8]) -> Vec<Event> {
    let max = max.min(LARGEST);
    let mut events = Vec::with_capacity(16);
    let mut at = 0;
    while at < stream.len() {
        let event = one(max, stream, at);
        events.push(event);
        match event {
            Event::Frame { end, .. } => at = end,
            _ => break,
        }
    }
    events
}

fn one(max: usize, stream: &[u8], at: usize) -> Event {
    let (mut length, mut index) = (0_u128, at);
    loop {
        match stream.get(index) {
            None => return Event::truncated(at, stream.len()),
            Some(b':') if index > at => break,
            // A second digit after a 0.
            Some(b'0'..=b'9') if index > at && length == 0 => {
                return Event::fatal(Kind::BadLength, index);
            }
            Some(digit @ b'0'..=b'9') => length = length * 10 + u128::from(digit - b'0'),
            Some(_) => return Event::fatal(Kind::BadLength, index),
        }
        if length > max as u128 {
            return Event::fatal(Kind::TooLong(max), index);
        }
        index += 1;
    }
    let start = index + 1;
    // It is within the limit, so it fits.
    let end = start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
    match stream.get(end) {
        None => Event::truncated(at, stream.len()),
        Some(b',') => Event::frame(start, end, end + 1),
        Some(_) => Event::fatal(Kind::MissingTerminator, end),
    }
}

/// Netstrings of any limit, in any segmentation; and back.
pub fn netstring(data: &[u8]) {
    let Some(input) = Input::new(data) else { return };
    let mut codec = codec(&input);
    let max = input.max().min(LARGEST);
    let expected = decode(max, input.stream);
    every_cut(&codec, &input, &expected, holds(max), same_bytes);
    lent(&codec, &input, &expected, holds(max));

    let mut sent = BytesMut::with_capacity(64);
    let mut events = Vec::with_capacity(8);
    let mut encoder = codec.clone();
    for piece in input.pieces() {
        let before = sent.len();
        if let Err(error) = encoder.encode(piece, &mut sent) {
            let expected = Fault { kind: Kind::TooLong(max), offset: None, fatal: true };
            assert_eq!(Fault::from(&error), expected);
            assert!(
                piece.len() > max && sent.len() == before,
                "a refused frame leaves nothing behind"
            );
            continue;
        }
        assert!(piece.len() <= max, "a frame over the limit was encoded");
        let end = sent.len() - 1;
        events.push(Event::frame(end - piece.len(), end, end + 1));
    }
    assert_eq!(decode(max, &sent), events, "the naive decoder reads what was encoded");
    let mut expect = Expect::new(&sent, &events, same_bytes);
    Drive { cuts: Cuts::Whole, moves: false, holds: holds(max) }.run(
        &mut codec,
        &sent,
        &mut expect,
    );
    expect.end();
    let frames = events.iter().map(|event| match *event {
        Event::Frame { body: (from, to), .. } => &sent[from..to],
        _ => b"",
    });
    assert!(
        frames.eq(input.pieces().filter(|piece| piece.len() <= max)),
        "another frame was written"
    );
}
