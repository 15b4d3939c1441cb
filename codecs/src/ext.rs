//! Frames of a type, on any codec.

use tokio_util::codec::Decoder;

use crate::error::BoxError;
use crate::map::{Map, TryMap};
use crate::parsed::Parsed;

/// Turns any [`Decoder`] into one whose frames have another type. Encoding stays as it is, except
/// with JSON and postcard.
///
/// ```
/// use bytes::{Bytes, BytesMut};
/// use ropewalk_codecs::{CodecExt, Lines};
/// use tokio_util::codec::Decoder;
///
/// # fn main() -> Result<(), ropewalk_codecs::CodecError> {
/// let mut lengths = Lines::crlf().map(|line: Bytes| line.len());
/// assert_eq!(lengths.decode(&mut BytesMut::from("four\r\n"))?, Some(4));
/// # Ok(())
/// # }
/// ```
pub trait CodecExt: Decoder {
    /// Frames of type `T`, made from this codec's frames by `TryFrom`. The codec's type can be
    /// named, unlike with a closure.
    fn parse<T>(self) -> Parsed<Self, T>
    where
        Self: Sized,
        T: TryFrom<Self::Item, Error: Into<BoxError>>,
    {
        Parsed::new(self)
    }

    /// Frames of type `T`, read from JSON (feature `json`).
    #[cfg(feature = "json")]
    fn json<T>(self) -> crate::Json<Self, T>
    where
        Self: Sized,
        T: serde::de::DeserializeOwned,
    {
        crate::Json::new(self)
    }

    /// Frames of type `T`, read from postcard (feature `postcard`).
    #[cfg(feature = "postcard")]
    fn postcard<T>(self) -> crate::Postcard<Self, T>
    where
        Self: Sized,
        T: serde::de::DeserializeOwned,
    {
        crate::Postcard::new(self)
    }

    /// Frames passed through a function.
    fn map<F, U>(self, f: F) -> Map<Self, F>
    where
        Self: Sized,
        F: FnMut(Self::Item) -> U,
    {
        Map::new(self, f)
    }

    /// Frames passed through a function that may fail.
    fn try_map<F, U, E>(self, f: F) -> TryMap<Self, F>
    where
        Self: Sized,
        F: FnMut(Self::Item) -> Result<U, E>,
        E: Into<BoxError>,
    {
        TryMap::new(self, f)
    }
}

impl<C: Decoder> CodecExt for C {}
