//! An error of any decoder, as the laws see it.

use std::any::Any;
use std::fmt;

use crate::error::CodecError;

/// What of an error has to be the same in every segmentation, and what law 6 expects after it.
///
/// For [`CodecError`] the kit knows all that: its kind, its offset, and whether it is fatal. Of any other error it
/// takes the text and ends the run there, unless [`Laws::errors`](super::Laws::errors) tells it more:
///
/// ```
/// use ropewalk_codecs::laws::{Fault, Laws};
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

/// What comes after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    Nothing,
    Frames,
    Unknown,
}

impl Fault {
    /// An error after which the decoder gives nothing more and discards what it is given.
    pub fn fatal(text: &(impl fmt::Display + ?Sized)) -> Self {
        Self::new(text, After::Nothing)
    }

    /// An error after which the decoder goes on.
    pub fn recoverable(text: &(impl fmt::Display + ?Sized)) -> Self {
        Self::new(text, After::Frames)
    }

    /// An error of which nobody has said what comes after it: the run ends there.
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

    /// What the kit makes of an error it has not been told about.
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
