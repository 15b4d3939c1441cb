//! Raw sections: bytes between frames.

use std::fmt;
use std::future::poll_fn;

use bytes::Bytes;

use super::{Session, Waits};
use ropewalk_middleware::{Result, SessionError};

impl<C> Session<C> {
    /// Reads exactly the next `n` bytes, without looking at them. The next frame begins at the byte
    /// after them.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: if it is dropped before it is ready, no bytes have been taken.
    ///
    /// # Errors
    ///
    /// [`SessionError::RawTooLong`], before any byte is read, if `n` is above the limit (`raw_limit`
    /// on the leaf); [`SessionError::MidFrame`] if a part of a frame was read (a `next()` was
    /// dropped while it waited); [`SessionError::Truncated`] if the peer closes before all bytes
    /// have arrived.
    pub async fn raw(&mut self, n: u64) -> Result<Bytes> {
        self.wire.step().await;
        self.at_boundary()?;
        let max = self.wire.limits().raw_limit;
        if n > max {
            return Err(SessionError::RawTooLong { max }.into());
        }
        if n == 0 {
            // The peer has done nothing for this, so its first frame is still to come.
            return Ok(Bytes::new());
        }
        let waits = Waits(&mut self.wire);
        poll_fn(|cx| waits.0.poll_raw(n, cx)).await
    }

    /// Reads the next `n` bytes as they arrive, in chunks of up to 64 KiB: for more data than
    /// should be held in memory at once.
    ///
    /// ```
    /// # use ropewalk::{Lines, Result, Session};
    /// # async fn doc(mut s: Session<Lines>, mut file: tokio::fs::File) -> Result {
    /// # use tokio::io::AsyncWriteExt;
    /// let mut chunks = s.raw_chunks(10_000_000)?;
    /// while let Some(chunk) = chunks.next().await? {
    ///     file.write_all(&chunk).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// If the chunks are dropped early, the rest is discarded as it arrives, and the next frame is
    /// the one after it.
    ///
    /// # Errors
    ///
    /// [`SessionError::MidFrame`] as for [`Session::raw`].
    pub fn raw_chunks(&mut self, n: u64) -> Result<RawChunks<'_, C>> {
        self.at_boundary()?;
        Ok(RawChunks { session: self, left: n })
    }
}

/// Raw bytes as they arrive: see [`Session::raw_chunks`].
#[must_use = "if it is dropped, the bytes are discarded as they arrive"]
pub struct RawChunks<'a, C> {
    session: &'a mut Session<C>,
    left: u64,
}

impl<C> RawChunks<'_, C> {
    /// The next chunk, never empty; `None` after the last. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`SessionError::Truncated`] if the peer closes before all bytes have arrived.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        self.session.wire.step().await;
        if self.left == 0 {
            return Ok(None);
        }
        let waits = Waits(&mut self.session.wire);
        let chunk = poll_fn(|cx| waits.0.poll_raw_chunk(self.left, cx)).await?;
        self.left -= chunk.len() as u64;
        Ok(Some(chunk))
    }

    /// How many bytes are left to read.
    pub fn remaining(&self) -> u64 {
        self.left
    }
}

impl<C> Drop for RawChunks<'_, C> {
    fn drop(&mut self) {
        if self.left > 0 {
            self.session.wire.skip(self.left);
        }
    }
}

impl<C> fmt::Debug for RawChunks<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawChunks").field("remaining", &self.left).finish_non_exhaustive()
    }
}
