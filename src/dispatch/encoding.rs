//! How the frames of answers are encoded.

use ropewalk_middleware::{BoxError, Result};
use tokio_util::codec::Encoder;

use crate::wire::Wire;

/// Encodes a frame of an answer into the wire.
pub(crate) trait Encoding<C, T> {
    /// Queues one frame.
    fn encode(wire: &mut Wire, codec: &mut C, frame: T) -> Result;
}

/// A large frame is not copied, if the codec is one of this crate's.
#[derive(Debug)]
#[allow(unreachable_pub)] // a parameter of a public associated type
pub struct Uncopied(());

impl<C: Encoder<T, Error: Into<BoxError>> + 'static, T: 'static> Encoding<C, T> for Uncopied {
    #[inline(always)]
    fn encode(wire: &mut Wire, codec: &mut C, frame: T) -> Result {
        wire.encode_shared(codec, frame)
    }
}

/// Each frame is copied. For a codec that is borrowed, whose type can't be compared with those of
/// this crate.
#[derive(Debug)]
pub(crate) struct Copied(());

impl<C: Encoder<T, Error: Into<BoxError>>, T> Encoding<C, T> for Copied {
    #[inline(always)]
    fn encode(wire: &mut Wire, codec: &mut C, frame: T) -> Result {
        wire.encode(codec, frame)
    }
}
