//! TLS or plain text, by the first byte that a peer sends.

use std::io;

use bytes::Bytes;
use ropewalk_middleware::Stream;
use tokio::io::AsyncReadExt;

use super::prefixed::Prefixed;

/// The first byte of a TLS handshake: the type of its record.
const HANDSHAKE: u8 = 0x16;

/// Reads the first byte, and returns whether TLS begins with it, and a stream that begins with it
/// too.
pub(super) async fn detect(mut stream: Stream) -> io::Result<(bool, Stream)> {
    let mut first = [0];
    stream.read_exact(&mut first).await?;
    let stream = Prefixed::stream(Bytes::copy_from_slice(&first), stream);
    Ok((first == [HANDSHAKE], stream))
}
