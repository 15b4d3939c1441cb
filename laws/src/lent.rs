//! Codecs that lend frames, as decoders, because the laws are checked on decoders.

use bytes::{Buf, Bytes, BytesMut};
use ropewalk_codecs::{CodecError, Framing};
use tokio_util::codec::{Decoder, Encoder};

/// [`Framing::next_frame`] or [`Framing::last_frame`].
type Lend<C> = for<'a> fn(&mut C, &mut &'a [u8]) -> Result<Option<&'a [u8]>, CodecError>;

/// A decoder that copies the frames lent by a codec, so that the laws can be checked on a
/// [`Framing`]. Encoding is that of the codec.
///
/// ```
/// use ropewalk_codecs::Lines;
/// use ropewalk_laws::Lent;
///
/// ropewalk_laws::check(|| Lent(Lines::lf()), [&b"one\ntwo\n"[..], b"half a li"]);
/// ```
#[derive(Debug, Clone)]
pub struct Lent<C>(pub C);

impl<C> Lent<C> {
    fn copy(&mut self, src: &mut BytesMut, lend: Lend<C>) -> Result<Option<Bytes>, CodecError> {
        let mut rest = &src[..];
        let frame = lend(&mut self.0, &mut rest).map(|frame| frame.map(Bytes::copy_from_slice));
        let taken = src.len() - rest.len();
        src.advance(taken);
        frame
    }
}

impl<C: Framing> Decoder for Lent<C> {
    type Item = Bytes;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        self.copy(src, C::next_frame)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        self.copy(src, C::last_frame)
    }
}

impl<T, C: Encoder<T>> Encoder<T> for Lent<C> {
    type Error = C::Error;

    fn encode(&mut self, frame: T, dst: &mut BytesMut) -> Result<(), C::Error> {
        self.0.encode(frame, dst)
    }
}
