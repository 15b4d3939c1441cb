//! Peer data made fit for a log line.

use std::fmt::{self, Display, Write as _};

/// The most bytes an [`Escaped`] value writes: 256, the tail of a cut one included.
pub const ESCAPED_MAX: usize = 256;

/// Room for the longest tail, `...(18446744073709551615 bytes)`.
const TAIL: usize = 31;

/// Bytes or text of a peer, as they may stand in a log: escaped, and cut to [`ESCAPED_MAX`] bytes.
///
/// Only printable ASCII is written; everything else, quotes and backslashes too, is escaped as in a Rust byte string.
/// What does not fit is cut at a whole escape, and a tail says how long it was. `Debug` is the same in double quotes,
/// which makes it safe beside other fields on one line.
///
/// ```
/// use ropewalk_middleware::Escaped;
///
/// assert_eq!(Escaped::new(b"QUIT\r\n\x1b[2J").to_string(), r"QUIT\r\n\x1b[2J");
/// assert!(Escaped::new(&[b'a'; 5000]).to_string().ends_with("aaa...(5000 bytes)"));
/// ```
#[derive(Clone, Copy)]
pub struct Escaped<'a>(Source<'a>);

#[derive(Clone, Copy)]
enum Source<'a> {
    Bytes(&'a [u8]),
    Text(&'a dyn Display),
}

impl<'a> Escaped<'a> {
    /// Bytes as they came from a peer.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(Source::Bytes(bytes))
    }

    /// Anything that may quote a peer: an error, an address.
    pub fn display(text: &'a dyn Display) -> Self {
        Self(Source::Text(text))
    }
}

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = Line::default();
        match self.0 {
            Source::Bytes(bytes) => line.push(bytes),
            // A text that fails half-way is shown as far as it came: a log line must not fail.
            Source::Text(text) => drop(write!(line, "{text}")),
        }
        line.finish(f)
    }
}

impl fmt::Debug for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Takes any number of bytes, keeps what one log line shows of them.
struct Line {
    shown: [u8; ESCAPED_MAX],
    len: usize,
    /// How much of `shown` is kept beside a tail: the last whole escape that leaves it room.
    cut: usize,
    full: bool,
    total: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self { shown: [0; ESCAPED_MAX], len: 0, cut: 0, full: false, total: 0 }
    }
}

impl Line {
    fn push(&mut self, bytes: &[u8]) {
        self.total = self.total.saturating_add(bytes.len());
        for byte in bytes {
            if self.full {
                return;
            }
            self.push_byte(*byte);
        }
    }

    fn push_byte(&mut self, byte: u8) {
        let escape = std::ascii::escape_default(byte);
        let end = self.len + escape.len();
        let Some(room) = self.shown.get_mut(self.len..end) else {
            self.full = true;
            return;
        };
        for (to, from) in room.iter_mut().zip(escape) {
            *to = from;
        }
        self.len = end;
        if end <= ESCAPED_MAX - TAIL {
            self.cut = end;
        }
    }

    fn finish(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let len = if self.full { self.cut } else { self.len };
        for &byte in &self.shown[..len] {
            f.write_char(char::from(byte))?;
        }
        if self.full { write!(f, "...({} bytes)", self.total) } else { Ok(()) }
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}
