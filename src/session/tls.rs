//! STARTTLS: a session that becomes encrypted.

use super::Session;
use crate::tls::{ClientTls, Side, TlsConfig, TlsError};
use ropewalk_middleware::Result;

/// Either side's configuration, for [`Session::upgrade_tls`]: [`TlsConfig`] or [`ClientTls`].
pub trait UpgradeTls: sealed::HasSide {}

impl UpgradeTls for TlsConfig {}
impl UpgradeTls for ClientTls {}

mod sealed {
    use super::{Side as SideOf, TlsError};

    #[allow(unreachable_pub)] // sealed: it can't be named or implemented outside
    pub trait HasSide {
        fn side(&self) -> Result<SideOf, TlsError>;
    }
}

impl sealed::HasSide for TlsConfig {
    fn side(&self) -> Result<Side, TlsError> {
        self.current().map(Side::Server)
    }
}

impl sealed::HasSide for ClientTls {
    fn side(&self) -> Result<Side, TlsError> {
        Ok(Side::Client(self.current()?, self.server_name(None)?))
    }
}

impl<C> Session<C> {
    /// Does a TLS handshake, at any moment between two frames: the server's side with a
    /// [`TlsConfig`], the client's side with a [`ClientTls`], which needs a
    /// [name](ClientTls::name). After that the connection is encrypted, and [`Session::tls`]
    /// returns the result of the handshake. Frames queued before it are written first, in
    /// plaintext.
    ///
    /// ```
    /// # use ropewalk::{Lines, Result, Session, TlsConfig};
    /// async fn smtp(mut s: Session<Lines>, tls: TlsConfig) -> Result {
    ///     s.feed("220 ready")?;
    ///     while let Some(line) = s.next().await? {
    ///         match &line[..] {
    ///             b"STARTTLS" if s.tls().is_none() => {
    ///                 s.feed("220 go ahead")?;
    ///                 s.upgrade_tls(&tls).await?;
    ///             }
    ///             b"QUIT" => break,
    ///             _ => s.feed("250 ok")?,
    ///         }
    ///     }
    ///     s.feed("221 bye")
    /// }
    /// ```
    ///
    /// A peer waits for the answer to its request before it begins the handshake. Bytes that follow
    /// the request came in plaintext, and an attacker may have inserted them. If some of them were
    /// read already, the upgrade is refused and they are not delivered; unread ones are treated as
    /// a part of the handshake, which then fails. Answer the request with [`feed`](Session::feed)
    /// and let this function write the answer: [`send`](Session::send) and
    /// [`flush`](Session::flush) read ahead when they have to wait, and would read the handshake.
    ///
    /// All that the session has learned from the peer so far came in plaintext; RFC 3207 requires
    /// SMTP servers to discard it now.
    ///
    /// # Cancel safety
    ///
    /// If it is dropped before it is ready, the session can only end: no more bytes are read, and
    /// once the handshake has begun, writing fails.
    ///
    /// # Errors
    ///
    /// [`SessionError::PlaintextBehind`](crate::SessionError::PlaintextBehind), and
    /// [`AlreadyEncrypted`](crate::SessionError::AlreadyEncrypted); the session can go on only
    /// after `AlreadyEncrypted` and after a `TlsError`.
    /// [`HandshakeTimedOut`](crate::SessionError::HandshakeTimedOut) after 10 s, the error with
    /// which the handshake failed, and the errors of [`Session::flush`]. A [`TlsError`] if the
    /// certificates were not read before and are bad: better [load](TlsConfig::load) them before
    /// serving.
    pub async fn upgrade_tls(&mut self, tls: &impl UpgradeTls) -> Result {
        self.wire.step().await;
        let side = tls.side()?;
        self.wire.upgrade(side).await
    }
}
