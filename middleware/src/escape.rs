//! Peer data made safe for a log line.

use std::fmt::{self, Display, Write as _};

/// The most bytes an [`Escaped`] value writes: 256, including the tail of a cut one.
pub const ESCAPED_MAX: usize = 256;

/// Room for the longest tail, `...(18446744073709551615 bytes)`.
const TAIL: usize = 31;

/// Bytes or text of a peer, made safe for a log: escaped, and cut to [`ESCAPED_MAX`] bytes.
///
/// Only printable ASCII is written; all other bytes, quotes and backslashes are escaped as in a
/// Rust byte string. A longer value is cut after a whole escape, and a tail gives its length.
/// `Debug` is the same in double quotes, which makes it safe beside other fields on one line.
///
/// ```
/// use ropewalk_middleware::Escaped;
///
/// assert_eq!(Escaped::new(b"QUIT\r\n\x1b[2J").to_string(), r"QUIT\r\n\x1b[2J");
/// assert!(Escaped::new(&[b'a'; 5000]).to_string().ends_with("aaa...(5000 bytes)"));
/// ```
#[derive(Clone, Copy)]
pub struct Escaped<'a>(Unescaped<'a>);

#[derive(Clone, Copy)]
enum Unescaped<'a> {
    Bytes(&'a [u8]),
    Text(&'a dyn Display),
}

impl<'a> Escaped<'a> {
    /// Bytes as a peer sent them.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(Unescaped::Bytes(bytes))
    }

    /// A value whose text may quote a peer: an error, an address.
    pub fn display(text: &'a dyn Display) -> Self {
        Self(Unescaped::Text(text))
    }
}

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = EscapedLine::default();
        match self.0 {
            Unescaped::Bytes(bytes) => line.push(bytes),
            // A text whose formatting fails is shown up to there: a log line must not fail.
            Unescaped::Text(text) => drop(write!(line, "{text}")),
        }
        line.finish(f)
    }
}

impl fmt::Debug for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Accepts any number of bytes, and keeps those that a log line shows.
struct EscapedLine {
    shown: [u8; ESCAPED_MAX],
    len: usize,
    /// How much of `shown` is kept before a tail: up to the last whole escape that leaves room for
    /// it.
    cut: usize,
    full: bool,
    total: usize,
}

impl Default for EscapedLine {
    fn default() -> Self {
        Self { shown: [0; ESCAPED_MAX], len: 0, cut: 0, full: false, total: 0 }
    }
}

impl EscapedLine {
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

impl fmt::Write for EscapedLine {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}
