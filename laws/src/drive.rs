//! Runs one decoder over one stream: its results, and the laws that a single run can break.

use std::fmt::Debug;

use bytes::BytesMut;

use super::fault::{After, Fault};
use super::law::Law;
use super::{Laws, Subject};

/// Up to this many unread bytes move to another buffer before every second read, more bytes less
/// often.
const MOVES_OFTEN: usize = 1024;

/// A decoder may return this many frames and errors for each byte, and as many without a byte. With
/// more it is assumed never to end.
const RESULTS_PER_BYTE: usize = 16;

/// Input after a fatal error, which must have no effect.
const AFTERMATH: &[u8] = b"\r\n0:,\0\0\x01a\n";

/// A result of a decoder.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Event<T> {
    Frame(T),
    Error(Fault),
}

/// When an event came and where it ended, which does not depend on the content of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// The bytes the decoder had been given.
    pub(super) given: usize,
    /// The bytes it had taken.
    pub(super) taken: usize,
    pub(super) after: Option<After>,
}

/// The results of a whole run.
#[derive(Debug)]
pub(super) struct Run<T> {
    /// The frames and errors. Frames that belong together are joined if there is a `merge`
    /// function.
    pub(super) events: Vec<Event<T>>,
    /// How many of these had come when the stream ended.
    pub(super) before_end: usize,
    /// One mark for each event, before events are joined.
    pub(super) marks: Vec<Mark>,
    /// How many bytes were overwritten with others.
    pub(super) overwritten: usize,
}

/// A law that a single run breaks.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) law: Law,
    pub(super) expected: String,
    pub(super) got: String,
}

impl Broken {
    fn new(law: Law, expected: impl Into<String>, got: impl Into<String>) -> Self {
        Self { law, expected: expected.into(), got: got.into() }
    }
}

/// What a decoder returns for these reads and the end of the stream. Bytes in which it has found no
/// frame are overwritten with `filler`, if there is one.
pub(super) fn drive<C: Subject>(
    laws: &Laws<C>,
    codec: C,
    reads: &[&[u8]],
    filler: Option<&[u8]>,
) -> Result<Run<C::Item>, Broken> {
    let total: usize = reads.iter().map(|read| read.len()).sum();
    let mut driver = Driver {
        laws,
        codec,
        buffer: BytesMut::new(),
        run: Run { events: Vec::new(), before_end: 0, marks: Vec::new(), overwritten: 0 },
        given: 0,
        taken: 0,
        most_events: (total + 1) * RESULTS_PER_BYTE,
        last: None,
        overwritten_to: 0,
    };
    for (index, read) in reads.iter().enumerate() {
        if moves_before(index, driver.buffer.len()) {
            driver.buffer = BytesMut::from(&driver.buffer[..]);
        }
        driver.read(read)?;
        if let Some(filler) = filler {
            driver.overwrite(filler);
        }
    }
    driver.end()?;
    Ok(driver.run)
}

/// Whether the unread bytes move to another buffer before this read.
fn moves_before(read: usize, unread: usize) -> bool {
    read % 2 == 1 && (unread <= MOVES_OFTEN || read % 64 == 1)
}

struct Driver<'a, C: Subject> {
    laws: &'a Laws<C>,
    codec: C,
    buffer: BytesMut,
    run: Run<C::Item>,
    given: usize,
    taken: usize,
    most_events: usize,
    /// What may follow the last event, if that was an error.
    last: Option<After>,
    /// The stream offset up to which bytes were overwritten.
    overwritten_to: usize,
}

impl<C: Subject> Driver<'_, C> {
    fn is_over(&self) -> bool {
        self.last == Some(After::Unknown)
    }

    fn is_fused(&self) -> bool {
        self.last == Some(After::Nothing)
    }

    /// Gives the decoder some bytes and collects its results.
    fn read(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        if self.is_over() {
            return Ok(());
        }
        self.buffer.extend_from_slice(bytes);
        self.given += bytes.len();
        while self.step(C::decode)? {}
        let unread = self.buffer.len();
        if self.is_fused() && unread > 0 {
            let expected = "all bytes after a fatal error are discarded";
            return Err(Broken::new(
                Law::PlacedErrors,
                expected,
                format!("{unread} bytes stay in the buffer"),
            ));
        }
        match self.laws.limit {
            Some(limit) if unread > limit && !self.is_over() => Err(Broken::new(
                Law::BoundedMemory,
                format!("at most {limit} bytes are left unread"),
                format!("{unread} bytes are left unread"),
            )),
            _ => Ok(()),
        }
    }

    fn end(&mut self) -> Result<(), Broken> {
        self.run.before_end = self.run.events.len();
        if self.is_over() {
            return Ok(());
        }
        if self.is_fused() {
            self.read(AFTERMATH)?;
        }
        let unread = self.buffer.len();
        // The rest of a frame that was reported as an error need not be reported again.
        let told_before = self.last.is_some();
        let before = self.run.marks.len();
        while self.step(C::decode_eof)? {
            let event = self.run.events.last();
            if matches!(event, Some(Event::Frame(_))) && !self.laws.final_frame {
                let got = event.map(Event::show).unwrap_or_default();
                return Err(Broken::new(
                    Law::PrefixSafety,
                    "no incomplete frame at the end of the stream",
                    got,
                ));
            }
        }
        if unread > 0 && !told_before && self.run.marks.len() == before {
            let expected = format!("an error: the stream ended and {unread} bytes are not a frame");
            return Err(Broken::new(Law::PrefixSafety, expected, "nothing"));
        }
        Ok(())
    }

    /// Calls the decoder once. True if it may have more results.
    fn step(
        &mut self,
        decode: impl FnOnce(&mut C, &mut BytesMut) -> Result<Option<C::Item>, C::Error>,
    ) -> Result<bool, Broken> {
        let unread = self.buffer.len();
        let capacity = self.buffer.capacity();
        let result = decode(&mut self.codec, &mut self.buffer);
        if self.buffer.len() > unread || self.buffer.capacity() > capacity {
            let now = (self.buffer.len(), self.buffer.capacity());
            return Err(Broken::new(
                Law::BoundedMemory,
                format!(
                    "a buffer of {unread} bytes, with room for {capacity}, does not grow while it is decoded"
                ),
                format!("{} bytes, with room for {}", now.0, now.1),
            ));
        }
        self.taken += unread - self.buffer.len();
        let event = match result {
            Ok(None) => return Ok(false),
            Ok(Some(frame)) => Event::Frame(frame),
            Err(error) => Event::Error(self.laws.fault(&error)),
        };
        self.check(&event)?;
        self.last = event.after();
        self.run.marks.push(Mark { given: self.given, taken: self.taken, after: self.last });
        join(self.laws, &mut self.run.events, event);
        Ok(!self.is_over())
    }

    fn check(&self, event: &Event<C::Item>) -> Result<(), Broken> {
        if self.is_fused() {
            return Err(Broken::new(
                Law::PlacedErrors,
                "nothing after a fatal error",
                event.show(),
            ));
        }
        if let Event::Error(Fault { offset: Some(offset), .. }) = event
            && *offset > self.given as u64
        {
            let expected = format!("an error within the {} bytes that came", self.given);
            return Err(Broken::new(Law::PlacedErrors, expected, event.show()));
        }
        if self.run.marks.len() >= self.most_events {
            let expected = format!("at most {} frames and errors", self.most_events);
            return Err(Broken::new(
                Law::LinearWork,
                expected,
                format!("one more: {}", event.show()),
            ));
        }
        Ok(())
    }

    /// Overwrites the bytes the decoder has seen, except the window at each side of them.
    fn overwrite(&mut self, filler: &[u8]) {
        let window = self.laws.window;
        // The bytes up to `overwritten_to` have been overwritten before.
        let first = self.overwritten_to.max(self.taken + window);
        let end = self.buffer.len().saturating_sub(window);
        let Some(middle) = self.buffer.get_mut(first - self.taken..end) else {
            return;
        };
        self.overwritten_to = self.taken + end;
        for (index, byte) in middle.iter_mut().enumerate() {
            // Chosen by the offset in the stream, so that the filler continues where the last call
            // ended.
            let other = filler[(first + index) % filler.len()];
            self.run.overwritten += usize::from(*byte != other);
            *byte = other;
        }
    }
}

/// Appends an event, or joins it to the last one.
pub(super) fn join<C: Subject>(
    laws: &Laws<C>,
    events: &mut Vec<Event<C::Item>>,
    event: Event<C::Item>,
) {
    match (&laws.merge, events.last_mut(), event) {
        (Some(merge), Some(Event::Frame(last)), Event::Frame(frame)) => {
            let apart = merge(last, frame).map(Event::Frame);
            events.extend(apart);
        }
        (_, _, event) => events.push(event),
    }
}

impl<T> Event<T> {
    fn after(&self) -> Option<After> {
        match self {
            Self::Frame(_) => None,
            Self::Error(fault) => Some(fault.after),
        }
    }
}

impl<T: Debug> Event<T> {
    /// Its text in a violation.
    pub(super) fn show(&self) -> String {
        match self {
            Self::Frame(frame) => format!("frame {frame:?}"),
            Self::Error(fault) => fault.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::moves_before;

    /// The reads of one byte each before which the unread bytes move, after a first read of `first`
    /// bytes.
    fn moved(first: usize, more: usize) -> Vec<usize> {
        (0..=more).filter(|&read| moves_before(read, first + read - 1)).collect()
    }

    #[test]
    fn a_few_unread_bytes_move_before_every_second_read_and_many_now_and_then() {
        assert_eq!(moved(1, 6), [1, 3, 5]);
        assert_eq!(moved(1100, 130), [1, 65, 129]);
    }
}
