//! Bytes to commands and mail data, lines to bytes.

use memchr::memchr2;
use ropewalk::{Bytes, BytesMut, CodecError, Decoder, Encoder, ErrorKind, Lines};

/// The longest command line without its end. RFC 5321 wants 510, and more for each extension.
const MAX_LINE: usize = 2046;

/// Lines of commands; and once the application has said so, a mail's data up to its end.
///
/// Data comes in pieces of whatever size, without the dots that were put before its lines. Lines end with CR LF and nothing
/// else. A CR or LF by itself within data is a fatal error, at once: others may take it for the end of a line, then of the
/// mail, and what comes behind it for a mail of its own (CVE-2023-51764).
#[derive(Clone, Debug)]
pub(crate) struct Smtp {
    lines: Lines,
    mode: Mode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Commands,
    /// Within data, at the start of a line or not.
    Data {
        line_start: bool,
    },
    /// Failed: nothing can be known of what follows.
    Lost,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Command(Bytes),
    /// The next bytes of a mail, at least one.
    Data(Bytes),
    /// The mail has ended. Commands go on.
    End,
}

impl Smtp {
    pub(crate) fn new() -> Self {
        Self { lines: Lines::crlf().max(MAX_LINE).skip_too_long(), mode: Mode::Commands }
    }

    /// What follows the last command is a mail.
    pub(crate) fn expect_data(&mut self) {
        self.mode = Mode::Data { line_start: true };
    }

    fn data(&mut self, src: &mut BytesMut, line_start: bool) -> Result<Option<Frame>, CodecError> {
        if line_start {
            match src[..] {
                [] | [b'.'] | [b'.', b'\r'] => return Ok(None),
                [b'.', b'\r', b'\n', ..] => {
                    drop(src.split_to(3));
                    self.mode = Mode::Commands;
                    return Ok(Some(Frame::End));
                }
                [b'.', ..] => drop(src.split_to(1)),
                _ => {}
            }
        }
        let (end, line_start) = sound(src);
        self.mode = Mode::Data { line_start };
        if end > 0 {
            return Ok(Some(Frame::Data(src.split_to(end).freeze())));
        }
        // All of it, or a CR whose LF has yet to come.
        if matches!(src[..], [] | [b'\r']) {
            return Ok(None);
        }
        self.mode = Mode::Lost;
        Err(CodecError::new(ErrorKind::Parse("a CR or LF by itself".into())))
    }
}

/// How far `data` can be handed on as it is: up to a line that begins with a dot, a CR that may be half of a line's end, or
/// what is wrong; and whether a line begins there.
fn sound(data: &[u8]) -> (usize, bool) {
    let mut line = 0;
    while let Some(at) = memchr2(b'\r', b'\n', &data[line..]).map(|at| line + at) {
        if !data[at..].starts_with(b"\r\n") {
            // No dot, so it does not matter.
            return (at, false);
        }
        line = at + 2;
        if matches!(data.get(line), None | Some(b'.')) {
            return (line, true);
        }
    }
    (data.len(), false)
}

impl Decoder for Smtp {
    type Item = Frame;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, CodecError> {
        match self.mode {
            Mode::Commands => Ok(self.lines.decode(src)?.map(Frame::Command)),
            Mode::Data { line_start } => self.data(src, line_start),
            Mode::Lost => {
                src.clear();
                Ok(None)
            }
        }
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, CodecError> {
        match (self.decode(src)?, self.mode) {
            (None, Mode::Commands) => Ok(self.lines.decode_eof(src)?.map(Frame::Command)),
            (None, Mode::Data { .. }) => {
                // A mail without its end is none.
                let have = src.len() as u64;
                src.clear();
                self.mode = Mode::Lost;
                Err(CodecError::new(ErrorKind::Truncated { have }))
            }
            (frame, _) => Ok(frame),
        }
    }
}

impl<T: AsRef<[u8]>> Encoder<T> for Smtp {
    type Error = CodecError;

    fn encode(&mut self, line: T, dst: &mut BytesMut) -> Result<(), CodecError> {
        self.lines.encode(line, dst)
    }
}
