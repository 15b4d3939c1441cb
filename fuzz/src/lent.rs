//! A codec whose frames are lent, as a decoder that copies them: it has to give the same.

use bytes::{Buf, Bytes, BytesMut};
use ropewalk_codecs::{CodecError, Framing};
use tokio_util::codec::Decoder;

use super::drive::{Drive, Event, Expect, same_bytes};
use super::input::{Cuts, Input};

/// [`Framing::next_frame`] or [`Framing::last_frame`].
type LendNext<C> = for<'a> fn(&mut C, &mut &'a [u8]) -> Result<Option<&'a [u8]>, CodecError>;

struct Lent<C>(C);

impl<C: Framing> Lent<C> {
    fn copy(&mut self, src: &mut BytesMut, next: LendNext<C>) -> Result<Option<Bytes>, CodecError> {
        let mut rest = &src[..];
        let frame = next(&mut self.0, &mut rest).map(|frame| frame.map(Bytes::copy_from_slice));
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

/// Decodes an input's stream once more, in its reads.
pub fn lent<C: Framing + Clone>(codec: &C, input: &Input<'_>, events: &[Event], holds: usize) {
    let mut expect = Expect::new(input.stream, events, same_bytes);
    let drive = Drive { cuts: Cuts::Sizes(input.sizes()), moves: input.moves(), holds };
    drive.run(&mut Lent(codec.clone()), input.stream, &mut expect);
    expect.end();
}
