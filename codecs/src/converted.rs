//! Any codec with its frames converted: what `Map`, `TryMap`, `Parsed`, `Json` and `Postcard` have
//! in common.

use bytes::BytesMut;
use tokio_util::codec::{Decoder, Encoder};

use crate::error::{BoxError, CodecError};
use crate::frame::Progress;

/// A codec and its position in the stream. Each frame is converted as it is decoded; a conversion
/// that fails is a recoverable error at the offset where the frame begins. All errors are
/// `CodecError`, and after a fatal one nothing is decoded even if the inner codec would go on.
#[derive(Debug, Clone)]
pub(crate) struct Converted<C> {
    pub(crate) codec: C,
    progress: Progress,
    /// Where the last frame, or the last error, ended.
    start: u64,
}

impl<C> Converted<C> {
    pub(crate) fn new(codec: C) -> Self {
        Self { codec, progress: Progress::default(), start: 0 }
    }

    pub(crate) fn encode<T>(&mut self, item: T, dst: &mut BytesMut) -> Result<(), CodecError>
    where
        C: Encoder<T>,
        <C as Encoder<T>>::Error: Into<BoxError>,
    {
        self.codec.encode(item, dst).map_err(CodecError::from_any)
    }
}

impl<C> Converted<C>
where
    C: Decoder<Error: Into<BoxError>>,
{
    pub(crate) fn decode<T, E: Into<BoxError>>(
        &mut self,
        src: &mut BytesMut,
        convert: impl FnOnce(C::Item) -> Result<T, E>,
    ) -> Result<Option<T>, CodecError> {
        self.step(src, C::decode, convert)
    }

    pub(crate) fn decode_eof<T, E: Into<BoxError>>(
        &mut self,
        src: &mut BytesMut,
        convert: impl FnOnce(C::Item) -> Result<T, E>,
    ) -> Result<Option<T>, CodecError> {
        self.step(src, C::decode_eof, convert)
    }

    fn step<T, E: Into<BoxError>>(
        &mut self,
        src: &mut BytesMut,
        decode: impl FnOnce(&mut C, &mut BytesMut) -> Result<Option<C::Item>, C::Error>,
        convert: impl FnOnce(C::Item) -> Result<T, E>,
    ) -> Result<Option<T>, CodecError> {
        if self.progress.is_over(src) {
            return Ok(None);
        }
        let before = src.len();
        let result = decode(&mut self.codec, src);
        self.progress.count(before.saturating_sub(src.len()));
        let start = self.start;
        match result {
            Ok(None) => Ok(None),
            Ok(Some(frame)) => {
                self.start = self.progress.consumed();
                convert(frame).map(Some).map_err(|error| CodecError::parse(error).at(start))
            }
            Err(error) => {
                self.start = self.progress.consumed();
                let error = CodecError::from_any(error);
                if error.is_fatal() {
                    self.progress.fuse(src);
                }
                Err(error)
            }
        }
    }
}

/// The methods and `Debug` of a type with a `Converted` in its field `inner`.
macro_rules! is_around_a_codec {
    ($name:ident) => {
        impl<C, T> $name<C, T> {
            /// The codec underneath.
            pub fn get_ref(&self) -> &C {
                &self.inner.codec
            }

            /// The codec underneath.
            pub fn get_mut(&mut self) -> &mut C {
                &mut self.inner.codec
            }

            /// The codec underneath, by value.
            pub fn into_inner(self) -> C {
                self.inner.codec
            }
        }

        impl<C: std::fmt::Debug, T> std::fmt::Debug for $name<C, T> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name))
                    .field("inner", &self.inner)
                    .finish_non_exhaustive()
            }
        }
    };
}

/// The constructor, `Clone` and encoder of a wrapper that converts frames to a type. Its field `made`
/// names that type.
macro_rules! makes_a_type {
    ($name:ident) => {
        impl<C, T> $name<C, T> {
            pub(crate) fn new(codec: C) -> Self {
                Self {
                    inner: $crate::converted::Converted::new(codec),
                    made: std::marker::PhantomData,
                }
            }
        }

        // A derived impl would require `T: Clone`.
        impl<C: Clone, T> Clone for $name<C, T> {
            fn clone(&self) -> Self {
                Self { inner: self.inner.clone(), made: std::marker::PhantomData }
            }
        }
    };
}

/// Encodes what the codec underneath encodes.
macro_rules! encodes_as_the_codec {
    ($name:ident) => {
        impl<C, T, I> Encoder<I> for $name<C, T>
        where
            C: Encoder<I>,
            <C as Encoder<I>>::Error: Into<BoxError>,
        {
            type Error = CodecError;

            fn encode(&mut self, item: I, dst: &mut BytesMut) -> Result<(), CodecError> {
                self.inner.encode(item, dst)
            }
        }
    };
}

pub(crate) use {encodes_as_the_codec, is_around_a_codec, makes_a_type};
