//! The protocol's frames: four hexadecimal digits that count the bytes of the content, then the
//! content.

use bytes::{BufMut, BytesMut};
use ropewalk::codec::custom::{FindFrame, Span, Strict};
use ropewalk::codec::{CodecError, ErrorKind};
use tokio_util::codec::Encoder;

/// The bytes before the content.
const LEAD: usize = 4;

/// The most bytes of content. Everything a peer can make the server keep has a limit.
pub const MAX_CONTENT: usize = 8 * 1024;

/// Where a frame begins and ends.
#[derive(Clone, Debug)]
pub struct Message;

/// The codec: `Strict` keeps the limit, counts offsets, and refuses half a frame at the end.
pub fn codec() -> Strict<Message> {
    Strict::new(Message).max(LEAD + MAX_CONTENT)
}

impl FindFrame for Message {
    fn find_frame(&mut self, bytes: &[u8], _seen: usize) -> Result<Option<Span>, CodecError> {
        let mut content = 0;
        for (at, &byte) in bytes.iter().take(LEAD).enumerate() {
            let Some(digit) = char::from(byte).to_digit(16) else {
                let error = ErrorKind::Other("a frame begins with four hexadecimal digits".into());
                return Err(CodecError::new(error).at(at as u64));
            };
            content = content * 16 + digit as usize;
        }
        Ok((bytes.len() >= LEAD).then_some(Span {
            lead: LEAD,
            content,
            trail: 0,
        }))
    }
}

impl<T: AsRef<[u8]>> Encoder<T> for Message {
    type Error = CodecError;

    fn encode(&mut self, content: T, dst: &mut BytesMut) -> Result<(), CodecError> {
        let content = content.as_ref();
        // `Strict` removes a frame over its limit again, but four digits must not overflow before
        // that.
        if content.len() > MAX_CONTENT {
            return Err(CodecError::new(ErrorKind::TooLong { max: MAX_CONTENT }));
        }
        dst.reserve(LEAD + content.len());
        dst.put_slice(format!("{:04x}", content.len()).as_bytes());
        dst.put_slice(content);
        Ok(())
    }
}
