//! Which protocol a peer speaks, by the first bytes that it sends: a step before a connection.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ropewalk_middleware::{Peer, Stream};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::preamble::{Step, StepFuture};
use super::prefixed::Prefixed;

/// How long a peer may take to send as many bytes as are needed.
const FIRST_BYTES: Duration = Duration::from_secs(10);

/// Protocols that are recognized by the first bytes that a peer sends: see
/// [`Endpoint::recognize`](crate::Endpoint::recognize).
///
/// ```
/// use std::time::Duration;
/// use ropewalk::endpoint::Protocols;
///
/// let protocols = Protocols::new()
///     .begins_with("ssh", "SSH-2.0-")
///     .begins_with("http", "GET ")
///     .begins_with("http", "POST ")
///     // The client of a protocol in which the server speaks first sends nothing.
///     .silent_after(Duration::from_millis(500));
/// # let _ = protocols;
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protocols {
    /// Names, and what their streams begin with.
    rules: Vec<(Arc<str>, Bytes)>,
    silent_after: Option<Duration>,
}

/// What is known after some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Recognition {
    Is(Arc<str>),
    Unknown,
    /// At most this many more bytes decide.
    Needs(usize),
}

impl Protocols {
    /// No protocols: nothing is recognized.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a protocol, whose clients begin with these bytes. A name may be added several times. If
    /// the bytes of several protocols fit, it is the one that was added first, and if some fit so
    /// far, further bytes are awaited.
    #[must_use]
    pub fn begins_with(mut self, name: impl Into<Arc<str>>, bytes: impl Into<Bytes>) -> Self {
        self.rules.push((name.into(), bytes.into()));
        self
    }

    /// Lets a peer pass as unknown that sends nothing for this long, or that has begun and sends too
    /// little for as long again. It is meant for a protocol in which the server speaks first.
    /// Without it, or if it is longer than 10 s, such a peer is closed after 10 s. One that
    /// half-closes without a byte passes at once; without this it is closed.
    #[must_use]
    pub fn silent_after(mut self, time: Duration) -> Self {
        self.silent_after = Some(time);
        self
    }

    fn verdict(&self, bytes: &[u8]) -> Recognition {
        let mut is_open = false;
        for (name, begin) in &self.rules {
            if bytes.starts_with(begin) && !is_open {
                return Recognition::Is(Arc::clone(name));
            }
            is_open |= begin.len() > bytes.len() && begin.starts_with(bytes);
        }
        let open = self.rules.iter().filter(|(_, begin)| begin.starts_with(bytes));
        match open.map(|(_, begin)| begin.len() - bytes.len()).max() {
            Some(more) if is_open => Recognition::Needs(more),
            _ => Recognition::Unknown,
        }
    }

    /// Reads until it is known. The bytes are in `read`, also if this is dropped early.
    async fn decide(
        &self,
        stream: &mut Stream,
        read: &mut BytesMut,
    ) -> io::Result<Option<Arc<str>>> {
        loop {
            let more = match self.verdict(read) {
                Recognition::Is(name) => return Ok(Some(name)),
                Recognition::Unknown => return Ok(None),
                Recognition::Needs(more) => more,
            };
            if (&mut *stream).take(more as u64).read_buf(read).await? > 0 {
                continue;
            }
            if read.is_empty() && self.silent_after.is_none() {
                let text = "the peer closed before it sent anything";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
            // What a peer has sent before it half-closed is served.
            return Ok(None);
        }
    }
}

/// The step that reads the first bytes.
pub(crate) struct Recognize(Arc<Protocols>);

impl Recognize {
    pub(crate) fn new(protocols: Protocols) -> Self {
        Self(Arc::new(protocols))
    }
}

impl Step for Recognize {
    fn name(&self) -> &'static str {
        "first bytes"
    }

    fn within(&self) -> Duration {
        FIRST_BYTES
    }

    fn silence(&self) -> Option<Duration> {
        self.0.silent_after
    }

    fn run(&self, mut stream: Stream, peer: Peer) -> StepFuture {
        let protocols = Arc::clone(&self.0);
        Box::pin(async move {
            let mut read = BytesMut::new();
            let deciding = protocols.decide(&mut stream, &mut read);
            let decided = match protocols.silent_after {
                None => deciding.await?,
                Some(time) => timeout(time, deciding).await.unwrap_or(Ok(None))?,
            };
            let peer = match decided {
                Some(name) => peer.with_recognized(name),
                None => peer,
            };
            Ok((Prefixed::stream(read.freeze(), stream), peer))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Protocols, Recognition};

    #[test]
    fn the_first_protocol_that_fits_is_the_one_and_longer_ones_before_it_are_awaited() {
        let is = |name: &str| Recognition::Is(name.into());
        let protocols = Protocols::new()
            .begins_with("http2", "PRI * HTTP/2")
            .begins_with("print", "PRI")
            .begins_with("http", "GET ")
            .begins_with("http", "POST ");
        for (bytes, verdict) in [
            ("", Recognition::Needs(12)),
            ("P", Recognition::Needs(11)),
            ("PR", Recognition::Needs(10)),
            ("PRI", Recognition::Needs(9)),
            ("PRI * H", Recognition::Needs(5)),
            ("PRI * HTTP/2.0", is("http2")),
            ("PRI * x", is("print")),
            ("PO", Recognition::Needs(3)),
            ("GET /", is("http")),
            ("POST ", is("http")),
            ("PUT ", Recognition::Unknown),
            ("x", Recognition::Unknown),
        ] {
            assert_eq!(protocols.verdict(bytes.as_bytes()), verdict, "{bytes:?}");
        }
        assert_eq!(Protocols::new().verdict(b""), Recognition::Unknown);
        assert_eq!(Protocols::new().begins_with("any", "").verdict(b"x"), is("any"));
    }
}
