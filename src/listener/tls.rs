//! The TLS handshake as a step before a connection.

use std::time::Duration;

use ropewalk_middleware::{Peer, Stream};
use tokio::runtime::Handle;

use super::detect::detect;
use super::preamble::{Step, StepFuture, Turns};
use crate::tls::{HANDSHAKE, TlsConfig, accept};

/// A handshake with the current certificates. Because it computes a lot, it does so in turns.
pub(crate) struct Handshake {
    tls: TlsConfig,
    turns: Turns,
}

impl Handshake {
    /// Call it in the runtime of the handshakes: as many compute at once as that runtime has
    /// threads.
    pub(crate) fn new(tls: TlsConfig) -> Self {
        Self { tls, turns: Turns::new(Handle::current().metrics().num_workers()) }
    }
}

impl Step for Handshake {
    fn name(&self) -> &'static str {
        "TLS handshake"
    }

    fn within(&self) -> Duration {
        HANDSHAKE
    }

    fn run(&self, stream: Stream, peer: Peer) -> StepFuture {
        let config = self.tls.current();
        let turns = self.turns.clone();
        let accepts_plain = self.tls.accepts_plain;
        Box::pin(async move {
            let (is_tls, stream) =
                if accepts_plain { detect(stream).await? } else { (true, stream) };
            if !is_tls {
                return Ok((stream, peer));
            }
            let (stream, tls) = turns.run(peer.host(), accept(config?, stream, None)).await?;
            Ok((stream, peer.with_tls(tls)))
        })
    }
}
