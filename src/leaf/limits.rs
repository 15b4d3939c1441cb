//! The limits that both leaves have.

/// Defines the setters of these limits, for a type with a field `limits: Arc<Limits>`.
macro_rules! limit_setters {
    () => {
        /// The most bytes the codec may leave in the buffer without finding a frame in them; 16 MiB
        /// by default. Above this limit the connection ends with
        /// [`SessionError::InputLimit`](crate::SessionError::InputLimit).
        ///
        /// It is meant for codecs without a limit of their own, such as tokio-util's
        /// `LinesCodec::new()`. It does not apply to the codecs of this crate and to
        /// [`Strict`](crate::codec::custom::Strict), which have a `max` of their own, also when
        /// they are used inside another codec.
        pub fn input_limit(mut self, bytes: usize) -> Self {
            std::sync::Arc::make_mut(&mut self.limits).input_limit = bytes;
            self
        }

        /// How long a frame may take from its first byte to its last, plus the same time again for
        /// each 64 KiB of it that have arrived; 30 s by default. `None` sets no deadline. There is
        /// no deadline for a frame to begin; see [`MakeRoom`](crate::layer::MakeRoom) for the case
        /// that other connections wait for a slot. A
        /// [`ReadDeadlineLayer`](crate::ReadDeadlineLayer) replaces this deadline with its own.
        ///
        /// The time counts only while the wire waits for the peer. When it has passed, the
        /// connection ends with [`SessionError::FrameTimeout`](crate::SessionError::FrameTimeout).
        /// It applies to raw bytes of a session from their first byte, and to
        /// [`Session::raw_chunks`](crate::Session::raw_chunks) for each chunk.
        pub fn frame_deadline(mut self, deadline: impl Into<Option<std::time::Duration>>) -> Self {
            std::sync::Arc::make_mut(&mut self.limits).frame = deadline.into();
            self
        }

        /// How long a peer may accept no bytes of waiting answers; 30 s by default. Within four
        /// times this time it must accept 64 KiB, or all that wait. The peer's progress is seen
        /// only when the kernel's send buffer has room again: after about 16 KiB over TCP on Linux,
        /// and after about 150 KiB on a Unix socket.
        pub fn write_stall(mut self, patience: std::time::Duration) -> Self {
            std::sync::Arc::make_mut(&mut self.limits).write_stall = patience;
            self
        }
    };
}
pub(super) use limit_setters;
