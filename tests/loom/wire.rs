//! A wire that has always room, and keeps what was encoded.

use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokio_util::codec::Encoder;

use super::{BoxError, Closing, ConnectionInfo, Result};

#[derive(Debug)]
pub struct Wire {
    closing: Closing,
    pub output: BytesMut,
}

impl Wire {
    pub fn new(connection: &ConnectionInfo) -> Self {
        Self { closing: connection.closing(), output: BytesMut::new() }
    }

    pub fn closing(&self) -> &Closing {
        &self.closing
    }

    pub fn has_room(&self) -> bool {
        true
    }

    pub fn has_turn(&self) -> bool {
        true
    }

    pub fn count_turn(&mut self) {}

    pub fn encode<C, F>(&mut self, codec: &mut C, frame: F) -> Result
    where
        C: Encoder<F, Error: Into<BoxError>>,
    {
        codec.encode(frame, &mut self.output).map_err(|error| super::Error::other(error.into()))
    }

    pub fn push_raw(&mut self, bytes: Bytes) {
        self.output.extend_from_slice(&bytes);
    }

    pub fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result> {
        Poll::Ready(Ok(()))
    }

    pub fn poll_turn(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    pub fn poll_room(&mut self, _: &mut Context<'_>) -> Poll<Result> {
        Poll::Ready(Ok(()))
    }
}
