//! Frames that stay where they are.

use crate::error::CodecError;

/// Finds frames in bytes and lends them, without copying: for code that has finished with a frame
/// before it asks for the next.
///
/// It has the same limits, errors, offsets and state as the same codec used as a `Decoder`; only
/// the frame is not taken out of the buffer. It does no I/O and does not allocate.
///
/// ```
/// use ropewalk_codecs::{Framing, Lines};
///
/// # fn main() -> Result<(), ropewalk_codecs::CodecError> {
/// let mut lines = Lines::lf();
/// let mut bytes: &[u8] = b"one\ntwo\nthr";
/// let mut total = 0;
/// while let Some(line) = lines.next_frame(&mut bytes)? {
///     total += line.len();
/// }
/// assert_eq!(total, 6);
/// assert_eq!(bytes, b"thr"); // keep it, and append what is read next
/// # Ok(())
/// # }
/// ```
pub trait Framing {
    /// The next frame of `bytes`; `bytes` then begins after it. `None` if `bytes` has no whole
    /// frame: then the next call has to get the rest of `bytes` again, with more after it.
    ///
    /// # Errors
    ///
    /// Those of the codec as a `Decoder`. After a recoverable one the next call continues with the
    /// next frame; after a fatal one nothing more is found, and `bytes` is emptied.
    fn next_frame<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, CodecError>;

    /// The same after the end of the stream. Call it until it returns `None`.
    ///
    /// # Errors
    ///
    /// As above, and [`ErrorKind::Truncated`](crate::ErrorKind::Truncated) for half a frame.
    fn last_frame<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, CodecError>;
}
