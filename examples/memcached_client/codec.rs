//! The client's side of memcached's text protocol, and the end of each answer.

use ropewalk::client::Part;
use ropewalk::codec::{CodecError, Decoder, Encoder, LineOrRaw};
use ropewalk::{Bytes, BytesMut, LineRaw};

/// The client's side of the text protocol: commands out; lines, and the data behind them, in.
#[derive(Clone, Debug)]
pub(crate) struct Memcached(pub(crate) LineRaw);

impl Decoder for Memcached {
    type Item = LineOrRaw;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<LineOrRaw>, CodecError> {
        let frame = self.0.decode(src)?;
        if let Some(LineOrRaw::Line(line)) = &frame
            && let Some(length) = data_length(line)
        {
            self.0.raw_whole(length + 2);
        }
        Ok(frame)
    }
}

impl Encoder<Bytes> for Memcached {
    type Error = CodecError;

    fn encode(&mut self, command: Bytes, dst: &mut BytesMut) -> Result<(), CodecError> {
        dst.extend_from_slice(&[&command, "\r\n".as_bytes()].concat());
        Ok(())
    }
}

/// The length of the data that follows `VALUE key flags length`.
fn data_length(line: &[u8]) -> Option<usize> {
    let words = std::str::from_utf8(line).ok()?.strip_prefix("VALUE ")?;
    words.split(' ').nth(2)?.parse().ok().filter(|length| *length <= 1024 * 1024)
}

/// The values of a `get` end with `END`; any other answer is one line.
pub(crate) fn part(frame: &LineOrRaw) -> Part {
    match frame {
        LineOrRaw::Line(line) if data_length(line).is_none() => Part::Last,
        _ => Part::More,
    }
}
