//! What the encoders of this crate write around a frame, for a caller that sends the frame itself
//! without copying it.
//!
//! `Encoder` has one buffer to write into, so each implementation copies the frame. A server that
//! holds a large [`Bytes`](bytes::Bytes) can send it from where it is, between the bytes that an
//! encoder would write before and after it.

use std::any::Any;

use bytes::BytesMut;

use crate::error::CodecError;
use crate::{LengthPrefixed, Lines, Netstring, RawBytes};

pub use crate::frame::Gap;

/// Encodes a frame without its bytes. `None` if the codec is not one of these four; it is then not
/// called. On an error `dst` is unchanged.
///
/// The compiler knows the type of the codec at each call, so the comparison costs nothing.
#[inline]
pub fn encode(
    codec: &mut dyn Any,
    frame: &[u8],
    dst: &mut BytesMut,
) -> Option<Result<Gap, CodecError>> {
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
