//! Frames that stay where they are.

use crate::error::CodecError;

/// Finds frames in bytes and lends them, without copying: for code that is done with a frame before it wants the next.
///
/// It is the same codec with the same limits, errors and offsets as when it is used as a `Decoder`, and it keeps what it
/// knows in the same place; only the frame is not taken out of the buffer. There is no I/O in it, and no allocation.
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
/// assert_eq!(bytes, b"thr"); // keep it, and put what comes next behind it
/// # Ok(())
/// # }
/// ```
pub trait Framing {
    /// The next frame of `bytes`, which then begins behind it. `None` if no whole frame is there: what is left of `bytes`
    /// then has to begin the next call's, with more behind it.
    ///
    /// # Errors
    ///
    /// Those of the codec as a `Decoder`. After a recoverable one the next call goes on with the next frame; after a fatal
    /// one nothing more is found, and `bytes` is emptied.
    fn next_frame<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, CodecError>;

    /// The same once no more bytes will come, until it is `None`.
    ///
    /// # Errors
    ///
    /// As above, and [`ErrorKind::Truncated`](crate::ErrorKind::Truncated) for half a frame.
    fn last_frame<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, CodecError>;
}
