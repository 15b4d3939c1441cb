//! An error of any decoder, as the laws see it.

use std::any::Any;
use std::fmt;

use ropewalk_codecs::CodecError;

/// The parts of an error that have to be the same in every segmentation, and what law 6 expects
/// after it.
///
/// Those of a [`CodecError`] are known: its kind, its offset, and whether it is fatal. Of any other
/// error only the text is compared, and the run ends there, unless
/// [`Laws::errors`](super::Laws::errors) says more:
///
/// ```
/// use ropewalk_laws::{Fault, Laws};
/// use tokio_util::codec::{LinesCodec, LinesCodecError};
///
/// Laws::new(|| LinesCodec::new_with_max_length(8))
///     .errors(|error| match error {
///         LinesCodecError::MaxLineLengthExceeded => Fault::recoverable(error),
///         LinesCodecError::Io(_) => Fault::unknown(error),
///     })
///     .final_frame()
///     .streams([b"one\ntwo\n"])
///     .check();
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub(super) text: String,
    pub(super) offset: Option<u64>,
    pub(super) after: After,
}

/// What may come after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    Nothing,
    Frames,
    Unknown,
}

impl Fault {
    /// An error after which the decoder returns nothing more and discards all input.
    pub fn fatal(text: &(impl fmt::Display + ?Sized)) -> Self {
        Self::new(text, After::Nothing)
    }

    /// An error after which the decoder continues.
    pub fn recoverable(text: &(impl fmt::Display + ?Sized)) -> Self {
        Self::new(text, After::Frames)
    }

    /// An error after which it is unknown what comes: the run ends there.
    pub fn unknown(text: &(impl fmt::Display + ?Sized)) -> Self {
        Self::new(text, After::Unknown)
    }

    /// The same error, placed at a stream offset.
    #[must_use]
    pub fn at(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }

    fn new(text: &(impl fmt::Display + ?Sized), after: After) -> Self {
        Self { text: text.to_string(), offset: None, after }
    }

    /// The default for an error, without [`Laws::errors`](super::Laws::errors).
    pub(super) fn of<E: fmt::Display + 'static>(error: &E) -> Self {
        let Some(error) = (error as &dyn Any).downcast_ref::<CodecError>() else {
            return Self::unknown(error);
        };
        let text = format!("{:?}", error.kind());
        let after = if error.is_fatal() { After::Nothing } else { After::Frames };
        Self { text, offset: error.offset(), after }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.after {
            After::Nothing => "fatal",
            After::Frames => "recoverable",
            After::Unknown => "error",
        };
        write!(f, "{word}: {}", self.text)?;
        match self.offset {
            Some(offset) => write!(f, " at {offset}"),
            None => Ok(()),
        }
    }
}
