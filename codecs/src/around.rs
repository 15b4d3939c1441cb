//! What the encoders of this crate write around a frame, for a caller that sends the frame itself without copying it.
//!
//! `Encoder` has one buffer to write into, so whatever implements it copies the frame. A server that holds a large
//! [`Bytes`](bytes::Bytes) can send it from where it is, between what is written around it.

use std::any::Any;

use bytes::BytesMut;

use crate::error::CodecError;
use crate::{LengthPrefixed, Lines, Netstring, RawBytes};

/// Where the frame belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// How many bytes of the buffer are before it.
    pub at: usize,
    /// How many bytes of the frame were copied into the buffer, so that they don't belong there: a header that stands
    /// before the length.
    pub copied: usize,
}

/// Encodes a frame without its bytes. `None` if the codec is another one: it was not called then. On an error `dst` is
/// unchanged.
///
/// The type of the codec is known where this is compiled for it, so the comparison costs nothing.
#[inline]
pub fn encode(codec: &mut dyn Any, frame: &[u8], dst: &mut BytesMut) -> Option<Result<Gap, CodecError>> {
    if codec.is::<RawBytes>() {
        Some(Ok(Gap { at: dst.len(), copied: 0 }))
    } else if let Some(lines) = codec.downcast_ref::<Lines>() {
        Some(lines.encode_around(frame, dst))
    } else if let Some(prefixed) = codec.downcast_ref::<LengthPrefixed>() {
        Some(prefixed.encode_around(frame, dst))
    } else {
        Some(codec.downcast_ref::<Netstring>()?.encode_around(frame, dst))
    }
}
