//! One decoder over one stream: what comes out, and the laws that one run alone can break.

use std::fmt::Debug;

use bytes::BytesMut;

use super::fault::{After, Fault};
use super::law::Law;
use super::{Laws, Subject};

/// Up to this many unread bytes move to another buffer before every second read, more only now and then.
const MOVES_OFTEN: usize = 1024;

/// A decoder may give this many frames and errors for each byte, and as many without a byte. With more it is taken to
/// have no end.
const RESULTS_PER_BYTE: usize = 16;

/// What follows a fatal error, to see that nothing comes of it.
const AFTERMATH: &[u8] = b"\r\n0:,\0\0\x01a\n";

/// What a decoder gave.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Event<T> {
    Frame(T),
    Error(Fault),
}

/// When an event came and where it ended, which does not depend on what is in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// The bytes the decoder had been given.
    pub(super) given: usize,
    /// The bytes it had taken.
    pub(super) taken: usize,
    pub(super) after: Option<After>,
}

/// What a whole run gave.
#[derive(Debug)]
pub(super) struct Run<T> {
    /// Frames that belong together are joined, if the options say how.
    pub(super) events: Vec<Event<T>>,
    /// How many of these had come when the stream ended.
    pub(super) before_end: usize,
    /// One for each event as it came.
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

/// What a decoder gives for these reads and the end of the stream. With a `filler`, bytes it has seen without finding a
/// frame in them are overwritten with it.
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
    /// What follows the last event, if that was an error.
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

    /// Gives the decoder some bytes and takes what it has.
    fn read(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        if self.is_over() {
            return Ok(());
        }
        self.buffer.extend_from_slice(bytes);
        self.given += bytes.len();
        while self.step(C::decode)? {}
        let unread = self.buffer.len();
        if self.is_fused() && unread > 0 {
            let expected = "whatever follows a fatal error is discarded";
            return Err(Broken::new(Law::PlacedErrors, expected, format!("{unread} bytes stay in the buffer")));
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
        // The rest of what an error was about already need not be one again.
        let told_before = self.last.is_some();
        let before = self.run.marks.len();
        while self.step(C::decode_eof)? {
            let event = self.run.events.last();
            if matches!(event, Some(Event::Frame(_))) && !self.laws.final_frame {
                let got = event.map(Event::show).unwrap_or_default();
                return Err(Broken::new(
                    Law::PrefixSafety,
                    "no frame at the end of the stream that was not whole",
                    got,
                ));
            }
        }
        if unread > 0 && !told_before && self.run.marks.len() == before {
            let expected = format!("an error: the stream ended and {unread} bytes are no frame");
            return Err(Broken::new(Law::PrefixSafety, expected, "nothing"));
        }
        Ok(())
    }

    /// One call. True if there may be more.
    fn step(
        &mut self,
        decode: impl FnOnce(&mut C, &mut BytesMut) -> Result<Option<C::Item>, C::Error>,
    ) -> Result<bool, Broken> {
        let (unread, capacity) = (self.buffer.len(), self.buffer.capacity());
        let result = decode(&mut self.codec, &mut self.buffer);
        if self.buffer.len() > unread || self.buffer.capacity() > capacity {
            let now = (self.buffer.len(), self.buffer.capacity());
            return Err(Broken::new(
                Law::BoundedMemory,
                format!("a buffer of {unread} bytes, with room for {capacity}, does not grow while it is decoded"),
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
            return Err(Broken::new(Law::PlacedErrors, "nothing after a fatal error", event.show()));
        }
        if let Event::Error(Fault { offset: Some(offset), .. }) = event
            && *offset > self.given as u64
        {
            let expected = format!("an error within the {} bytes that came", self.given);
            return Err(Broken::new(Law::PlacedErrors, expected, event.show()));
        }
        if self.run.marks.len() >= self.most_events {
            let expected = format!("at most {} frames and errors", self.most_events);
            return Err(Broken::new(Law::LinearWork, expected, format!("one more: {}", event.show())));
        }
        Ok(())
    }

    /// Overwrites what the decoder has seen, save the window at each side of it.
    fn overwrite(&mut self, filler: &[u8]) {
        let window = self.laws.window;
        // Up to `overwritten_to` it has been done.
        let first = self.overwritten_to.max(self.taken + window);
        let end = self.buffer.len().saturating_sub(window);
        let Some(middle) = self.buffer.get_mut(first - self.taken..end) else {
            return;
        };
        self.overwritten_to = self.taken + end;
        for (index, byte) in middle.iter_mut().enumerate() {
            // By its place in the stream, so that a call goes on where the last one ended.
            let other = filler[(first + index) % filler.len()];
            self.run.overwritten += usize::from(*byte != other);
            *byte = other;
        }
    }
}

/// Appends an event, or joins it to the last one.
pub(super) fn join<C: Subject>(laws: &Laws<C>, events: &mut Vec<Event<C::Item>>, event: Event<C::Item>) {
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
    /// As it stands in a violation.
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

    /// Before which of the reads of one byte each the unread ones move, when so many came with the first.
    fn moved(first: usize, more: usize) -> Vec<usize> {
        (0..=more).filter(|&read| moves_before(read, first + read - 1)).collect()
    }

    #[test]
    fn a_few_unread_bytes_move_before_every_second_read_and_many_now_and_then() {
        assert_eq!(moved(1, 6), [1, 3, 5]);
        assert_eq!(moved(1100, 130), [1, 65, 129]);
    }
}
