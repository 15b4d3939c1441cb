//! Lines with raw sections against a decoder that sees the whole stream.

use bytes::BytesMut;
use ropewalk_codecs::{LineOrRaw, LineRaw};
use tokio_util::codec::{Decoder, Encoder};

use super::drive::{Drive, Event, Fault, Handler, Span};
use super::input::{Cuts, Input};
use super::lines::{Rules, Step};

/// What a line tells the codec's owner to do.
#[derive(Clone, Copy)]
enum Switch {
    /// Nothing.
    Lines,
    /// The next so many bytes are raw.
    Raw(u64),
    /// So many are raw, or until the first chunk has come.
    Chunk(u64),
    /// The next so many are raw, in one piece.
    Whole(u64),
}

impl Switch {
    /// As the first bytes of a line say: `r`, `q` and `w` are followed by a length.
    fn of(line: &[u8]) -> Self {
        let n = line.get(1).map_or(0, |byte| u64::from(byte & 0x0f));
        match line.first() {
            Some(b'r') => Self::Raw(n),
            Some(b'q') => Self::Chunk(n),
            Some(b'w') => Self::Whole(n),
            Some(b'u') => Self::Chunk(u64::MAX),
            // Longer than any stream.
            Some(b'R') => Self::Raw(u64::MAX - n),
            _ => Self::Lines,
        }
    }

    fn tell(self, codec: &mut LineRaw) {
        match self {
            Self::Lines => {}
            Self::Chunk(u64::MAX) => codec.raw_until_lines(),
            Self::Raw(n) | Self::Chunk(n) => codec.raw(n),
            Self::Whole(n) => codec.raw_whole(usize::try_from(n).unwrap_or(usize::MAX)),
        }
    }
}

/// Lines that are told to switch by their own content and, if asked for, by errors.
#[derive(Clone, Copy)]
struct Sections {
    lines: Rules,
    on_error: Switch,
}

impl Sections {
    fn new(input: &Input<'_>) -> Self {
        let on_error = match input.more >> 4 & 3 {
            0 | 1 => Switch::Lines,
            2 => Switch::Raw(u64::from(input.more & 0x0f)),
            _ => Switch::Chunk(u64::MAX),
        };
        Self { lines: Rules::new(input), on_error }
    }

    /// All that is in a stream, raw sections in one piece each. Chunks end where reads do, and what
    /// waits for one does too.
    fn decode(&self, stream: &[u8], cuts: Cuts) -> Vec<Event> {
        let mut events = Vec::with_capacity(16);
        let mut at = 0;
        loop {
            let (event, resumed, switch) = match self.lines.step(stream, at) {
                Step::End => return events,
                Step::Skipped(event, end) => (event, end, self.on_error),
                Step::Event(event) => match event {
                    Event::Frame { body, end, .. } => {
                        (event, Some(end), Switch::of(&stream[body.0..body.1]))
                    }
                    _ => (event, None, Switch::Lines),
                },
            };
            events.push(event);
            let fused = matches!(event, Event::Error { fault, .. } if fault.fatal);
            let next = if fused { None } else { raw(switch, stream, resumed, cuts, &mut events) };
            let Some(next) = next else { return events };
            at = next;
        }
    }
}

/// The raw section that begins at an offset, if the stream goes so far; and where lines go on, if
/// they do.
fn raw(
    switch: Switch,
    stream: &[u8],
    from: Option<usize>,
    cuts: Cuts,
    events: &mut Vec<Event>,
) -> Option<usize> {
    let len = stream.len();
    let from_or_end = from.unwrap_or(len);
    let left = (len - from_or_end) as u64;
    let (n, whole) = match switch {
        Switch::Lines | Switch::Raw(0) | Switch::Chunk(0) | Switch::Whole(0) => return from,
        Switch::Raw(n) => (n.min(left), n <= left),
        // All of it or nothing.
        Switch::Whole(n) => (if n <= left { n } else { 0 }, n <= left),
        Switch::Chunk(n) => {
            let chunk = (cuts.end_after(from_or_end, len) - from_or_end) as u64;
            // The end of the stream is a proper one only of a section without a length.
            (n.min(chunk), n == u64::MAX || left > 0)
        }
    };
    let end = from_or_end + usize::try_from(n).unwrap_or(0);
    if end > from_or_end {
        events.push(Event::Raw((from_or_end, end)));
    }
    if !whole {
        events.push(Event::truncated(from_or_end, len));
        return None;
    }
    from.map(|_| end)
}

/// Whoever holds the codec, and what it should give.
struct Holder<'a> {
    sections: Sections,
    stream: &'a [u8],
    events: &'a [Event],
    next: usize,
    /// The rest of the raw section that is expected.
    raw: Span,
    /// Whether lines are to be asked for after the first chunk.
    chunk: bool,
    /// Whether the section is to come in one piece.
    whole: bool,
}

impl Holder<'_> {
    fn next(&mut self) -> Option<Event> {
        assert_eq!(self.raw.0, self.raw.1, "raw bytes are missing");
        self.next += 1;
        self.events.get(self.next - 1).copied()
    }

    fn switch(&mut self, codec: &mut LineRaw, switch: Switch) {
        self.chunk = matches!(switch, Switch::Chunk(1..));
        self.whole = matches!(switch, Switch::Whole(1..));
        switch.tell(codec);
    }
}

impl Handler<LineRaw> for Holder<'_> {
    fn item(&mut self, codec: &mut LineRaw, item: LineOrRaw) {
        match item {
            LineOrRaw::Line(line) => {
                let event = self.next();
                let Some(Event::Frame { body, .. }) = event else {
                    panic!("a line instead of {event:?}");
                };
                assert_eq!(line, self.stream[body.0..body.1]);
                self.switch(codec, Switch::of(&line));
            }
            LineOrRaw::Raw(bytes) => {
                if self.raw.0 == self.raw.1 {
                    let event = self.next();
                    let Some(Event::Raw(span)) = event else {
                        panic!("raw bytes instead of {event:?}");
                    };
                    self.raw = span;
                }
                let end = self.raw.0 + bytes.len();
                assert!(
                    !bytes.is_empty() && end <= self.raw.1,
                    "{} bytes of {:?}",
                    bytes.len(),
                    self.raw
                );
                assert_eq!(bytes, self.stream[self.raw.0..end]);
                assert!(!self.whole || end == self.raw.1, "a part of what is to come whole");
                self.raw.0 = end;
                if self.chunk {
                    self.chunk = false;
                    codec.lines();
                }
            }
        }
    }

    fn error(&mut self, codec: &mut LineRaw, fault: Fault) {
        let event = self.next();
        let Some(Event::Error { fault: expected, .. }) = event else {
            panic!("{fault:?} instead of {event:?}");
        };
        assert_eq!(fault, expected);
        self.switch(codec, self.sections.on_error);
    }
}

/// Lines and raw sections with any settings, in any segmentation; and back.
pub fn line_raw(data: &[u8]) {
    let Some(input) = Input::new(data) else { return };
    let sections = Sections::new(&input);
    let codec = LineRaw::new(sections.lines.codec(&input));
    for cuts in input.cuts() {
        let events = sections.decode(input.stream, cuts);
        let stream = input.stream;
        let mut holder = Holder {
            sections,
            stream,
            events: &events,
            next: 0,
            raw: (0, 0),
            chunk: false,
            whole: false,
        };
        // A section that is to come whole waits for its end, of which there are 15 bytes at most.
        let drive = Drive { cuts, moves: input.moves(), holds: sections.lines.holds().max(15) };
        drive.run(&mut codec.clone(), stream, &mut holder);
        assert_eq!(holder.next(), None, "this is missing, of {events:?}");
    }
    round_trip(&codec, &sections.lines, &input);
    interrupted(codec, &sections.lines, &input);
}

/// A switch while a line is unfinished, as an application may decide on one at any time: what has
/// come of the line is raw, and after the section lines begin afresh. None of these lines switches.
fn interrupted(mut codec: LineRaw, rules: &Rules, input: &Input<'_>) {
    let stream = input.stream;
    let (head, tail) = stream.split_at(Cuts::Sizes(input.sizes()).end_after(0, stream.len()));
    let mut buffer = BytesMut::from(head);
    loop {
        match codec.decode(&mut buffer) {
            Ok(Some(_)) => {}
            Ok(None) => break,
            // The rest of a skipped line is not for the switch to take.
            Err(_) => return,
        }
    }
    let start = head.len() - buffer.len();
    let end = start + usize::from(input.more & 0x0f);
    codec.raw((end - start) as u64);
    buffer.extend_from_slice(tail);
    let Some(section) = stream.get(start..end) else { return };
    if !section.is_empty() {
        let raw = codec.decode(&mut buffer);
        assert!(matches!(raw, Ok(Some(LineOrRaw::Raw(raw))) if raw == section), "another section");
    }
    let lines = &stream[end..];
    for event in rules.decode(lines) {
        // All that can be had before the end of the stream comes before it.
        let result = match codec.decode(&mut buffer) {
            Ok(None) => codec.decode_eof(&mut buffer),
            result => result,
        };
        match (result, event) {
            (Ok(Some(LineOrRaw::Line(line))), Event::Frame { body, .. }) => {
                assert_eq!(line, lines[body.0..body.1]);
            }
            (Err(error), Event::Error { fault, .. }) => {
                let offset = fault.offset.map(|offset| offset + end as u64);
                assert_eq!(Fault::from(&error), Fault { offset, ..fault });
            }
            (other, event) => panic!("{other:?} instead of {event:?}"),
        }
    }
    assert!(
        matches!(codec.decode_eof(&mut buffer), Ok(None)) && buffer.is_empty(),
        "something is left"
    );
}

/// Each line is followed by itself as a raw section.
fn round_trip(codec: &LineRaw, rules: &Rules, input: &Input<'_>) {
    let mut sent = BytesMut::with_capacity(64);
    let mut encoder = codec.clone();
    let mut accepted = Vec::with_capacity(8);
    for piece in input.pieces() {
        let before = sent.len();
        let result = encoder.encode(piece, &mut sent);
        let kind = result.err().map(|error| Fault::from(&error).kind);
        assert_eq!(kind, rules.refusal(piece), "encoding {:?}", piece.escape_ascii());
        if kind.is_some() {
            assert_eq!(sent.len(), before, "a refused line leaves nothing behind");
            continue;
        }
        let raw = LineOrRaw::Raw(bytes::Bytes::copy_from_slice(piece));
        assert!(encoder.encode(raw, &mut sent).is_ok(), "raw bytes need no room");
        accepted.push(piece);
    }
    let mut decoder = codec.clone();
    let mut lines = accepted.iter();
    while let Ok(Some(item)) = decoder.decode(&mut sent) {
        let line = lines.next().copied().unwrap_or_default();
        assert!(matches!(item, LineOrRaw::Line(read) if read == line), "another line");
        decoder.raw(line.len() as u64);
        if !line.is_empty() {
            let raw = decoder.decode(&mut sent);
            assert!(
                matches!(raw, Ok(Some(LineOrRaw::Raw(read))) if read == line),
                "another section"
            );
        }
    }
    assert!(sent.is_empty() && lines.next().is_none(), "something is left");
}
