#![forbid(unsafe_code)]
// docs.rs builds with nightly, and shows the feature that each item needs.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![doc = include_str!("../README.md")]

#[doc(hidden)]
pub mod around;
mod converted;
pub mod custom;
mod error;
mod ext;
mod fixed;
mod frame;
mod framing;
#[cfg(feature = "json")]
mod json;
mod length_prefixed;
mod line_raw;
mod lines;
mod map;
mod netstring;
#[doc(hidden)]
pub mod own_limit;
mod parsed;
#[cfg(feature = "postcard")]
mod postcard;
mod raw_bytes;

pub use error::{BoxError, CodecError, ErrorKind};
pub use ext::CodecExt;
pub use fixed::Fixed;
pub use framing::Framing;
#[cfg(feature = "json")]
pub use json::Json;
pub use length_prefixed::LengthPrefixed;
pub use line_raw::{LineOrRaw, LineRaw};
pub use lines::{Lines, Utf8};
pub use map::{Map, TryMap};
pub use netstring::Netstring;
pub use parsed::Parsed;
#[cfg(feature = "postcard")]
pub use postcard::Postcard;
pub use raw_bytes::RawBytes;
