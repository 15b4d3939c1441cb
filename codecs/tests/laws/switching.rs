//! Lines that say how much is raw.

use bytes::{Bytes, BytesMut};
use ropewalk_codecs::{CodecError, LineOrRaw, LineRaw, Lines};
use ropewalk_laws::Laws;
use tokio_util::codec::{Decoder, Encoder};

use crate::corpus::{Random, streams};

/// After a line `raw <n>` the next n bytes are raw, after `all <n>` they come in one piece, after
/// `rest` all are.
#[derive(Clone)]
struct Switching(LineRaw);

impl Switching {
    fn switch(&mut self, item: Option<LineOrRaw>) -> Option<LineOrRaw> {
        if let Some(LineOrRaw::Line(line)) = &item {
            if let Some(n) =
                line.strip_prefix(b"raw ").and_then(|n| std::str::from_utf8(n).ok()?.parse().ok())
            {
                self.0.raw(n);
            }
            if let Some(n) =
                line.strip_prefix(b"all ").and_then(|n| std::str::from_utf8(n).ok()?.parse().ok())
            {
                // No more than a line may have.
                self.0.raw_whole(usize::min(n, 6));
            }
            if line == "rest" {
                self.0.raw_until_lines();
            }
        }
        item
    }
}

impl Decoder for Switching {
    type Item = LineOrRaw;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<LineOrRaw>, CodecError> {
        let item = self.0.decode(src)?;
        Ok(self.switch(item))
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<LineOrRaw>, CodecError> {
        let item = self.0.decode_eof(src)?;
        Ok(self.switch(item))
    }
}

impl Encoder<LineOrRaw> for Switching {
    type Error = CodecError;

    fn encode(&mut self, item: LineOrRaw, dst: &mut BytesMut) -> Result<(), CodecError> {
        self.0.encode(item, dst)
    }
}

/// Chunks of one section as one.
fn join(last: &mut LineOrRaw, next: LineOrRaw) -> Option<LineOrRaw> {
    match (last, next) {
        (LineOrRaw::Raw(all), LineOrRaw::Raw(chunk)) => {
            *all = [&all[..], &chunk[..]].concat().into();
            None
        }
        (_, next) => Some(next),
    }
}

/// Lines and sections in a random order, two sections never one after the other.
fn items(random: &mut Random) -> Vec<LineOrRaw> {
    let mut items = Vec::new();
    for _ in 0..8 {
        items.push(LineOrRaw::Line(["a", "", "b\rc", "raw", "raw x"][random.below(5)].into()));
        let raw: Bytes = b"\r\nraw 3\r\n\0"
            .iter()
            .copied()
            .cycle()
            .skip(random.below(9))
            .take(random.below(30))
            .collect();
        items.push(LineOrRaw::Line(format!("raw {}", raw.len()).into()));
        if !raw.is_empty() {
            items.push(LineOrRaw::Raw(raw));
        }
    }
    items
}

/// The window is as wide as the lines that switch, for what they say decides where the next frame
/// ends.
fn laws(lines: Lines) -> Laws<Switching> {
    let mut random = Random::new(3);
    let mut laws = Laws::new(move || Switching(LineRaw::new(lines.clone())))
        .merge(join)
        .window(8)
        .frames([LineOrRaw::Line("plain".into())])
        .frames(
            ["\r", "\n", "\r\n", "a\r\nb", "far too long for that"]
                .map(|line| LineOrRaw::Line(line.into())),
        )
        .frames([LineOrRaw::Line("rest".into()), LineOrRaw::Raw("\r\nto the\r\nend".into())])
        .streams(streams())
        .streams([
            "raw 5\r\nab",
            "raw 5\r\n",
            "raw 0\r\n\r\nraw 1\r\n\nraw 2\r\n\r\n\r\n",
            "raw 99999999999999999999\r\nno",
            "all 5\r\n\r\n\n\r\rall 0\r\nall 1\r\n\nall 6\r\nabc",
        ])
        .variants(200);
    for _ in 0..4 {
        laws = laws.frames(items(&mut random));
    }
    laws
}

#[test]
fn the_laws_hold_over_many_switches() {
    laws(Lines::crlf().max(20)).limit(21).check();
    laws(Lines::lf().max(20)).limit(20).check();
    laws(Lines::any().max(20)).limit(21).check();
}

#[test]
fn the_laws_hold_over_many_switches_amid_lines_that_are_skipped() {
    laws(Lines::crlf().max(6).skip_too_long()).limit(7).check();
    laws(Lines::delimited("\r\n\0").max(8).skip_too_long()).limit(10).check();
}

#[test]
fn the_laws_hold_for_lines_without_a_switch() {
    let long = "x".repeat(40);
    let report = Laws::new(LineRaw::crlf)
        .window(1)
        .frames_as([long.clone(), long], |line| LineOrRaw::Line(line.clone().into()))
        .check();
    assert!(report.overwritten > 100, "{report}");
}
