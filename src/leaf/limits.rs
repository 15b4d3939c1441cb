//! The bounds that both leaves have.

/// Their setters, for a type whose `limits` are an `Arc<Limits>`.
macro_rules! limit_setters {
    () => {
        /// The most bytes the codec may leave in the buffer without finding a frame in them; 16 MiB by default. Over it the
        /// connection ends with [`SessionError::InputLimit`](crate::SessionError::InputLimit).
        ///
        /// It is for codecs without a limit of their own, as tokio-util's `LinesCodec::new()`. The codecs of this crate have
        /// `max`, and [`Strict`](crate::custom::Strict) has: what these allow is allowed, also inside another codec.
        pub fn input_limit(mut self, bytes: usize) -> Self {
            std::sync::Arc::make_mut(&mut self.limits).input_limit = bytes;
            self
        }

        /// How long a frame that has begun may take until it is whole, and as long again for each 64 KiB of it that have come;
        /// 30 s by default. `None` is no such deadline. For a frame that has not begun a peer has all the time it likes; see
        /// [`MakeRoom`](crate::MakeRoom) for what happens when others wait. The deadlines of a
        /// [`ReadDeadlineLayer`](crate::ReadDeadlineLayer), where there is one, take the place of this one.
        ///
        /// It counts while the peer is waited for. Late, the connection ends with
        /// [`SessionError::FrameTimeout`](crate::SessionError::FrameTimeout). Raw bytes of a session have begun with their first
        /// byte, those of [`Session::raw_chunks`](crate::Session::raw_chunks) with each chunk.
        pub fn frame_deadline(mut self, deadline: impl Into<Option<std::time::Duration>>) -> Self {
            std::sync::Arc::make_mut(&mut self.limits).frame = deadline.into();
            self
        }

        /// How long a peer may take none of its answers; 30 s by default. In four times as long it has to take 64 KiB of
        /// those that wait, or all. What lies in the kernel's buffers counts when the kernel has room again: after some
        /// 16 KiB over TCP on Linux, and after some 150 KiB on a Unix socket.
        pub fn write_stall(mut self, patience: std::time::Duration) -> Self {
            std::sync::Arc::make_mut(&mut self.limits).write_stall = patience;
            self
        }
    };
}
pub(super) use limit_setters;
