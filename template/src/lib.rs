//! The protocol of {{project-name}}: its frames, and the answers to them.

pub mod codec;

use bytes::Bytes;

pub use crate::codec::codec;

/// The answer to a request.
pub fn answer(request: Bytes) -> Bytes {
    request.to_ascii_uppercase().into()
}
