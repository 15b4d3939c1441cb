//! The TLS handshake as a step before a connection.

use std::time::Duration;

use ropewalk_middleware::{Peer, Stream};

use super::preamble::{Step, StepFuture};
use crate::tls::{HANDSHAKE, TlsConfig, accept};

/// A handshake with the certificates of the moment.
pub(crate) struct Handshake(pub(crate) TlsConfig);

impl Step for Handshake {
    fn name(&self) -> &'static str {
        "TLS handshake"
    }

    fn within(&self) -> Duration {
        HANDSHAKE
    }

    fn run(&self, stream: Stream, peer: Peer) -> StepFuture {
        let config = self.0.current();
        Box::pin(async move {
            let (stream, tls) = accept(config?, stream, None).await?;
            Ok((stream, peer.with_tls(tls)))
        })
    }
}
