//! The protocol of {{project-name}}: its frames, and what is answered to them.

pub mod codec;

use bytes::Bytes;
use ropewalk::{ConnectionService, framed, reply_fn};

pub use crate::codec::codec;

/// Serves connections: each frame is a request, and gets one answer.
pub fn service() -> impl ConnectionService {
    framed(codec(), reply_fn(answer))
}

fn answer(request: Bytes) -> Bytes {
    request.to_ascii_uppercase().into()
}
