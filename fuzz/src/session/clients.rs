//! The clients of a script, and what they should be told.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use ropewalk::memory::MemoryStream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::super::drive::Event;
use super::{ERROR, answer};

/// What a server answers.
pub struct Expected<'a> {
    /// A naive decoder of the requests.
    pub decode: &'a dyn Fn(&[u8]) -> Vec<Event>,
    pub answers_fatal: bool,
    /// What ends an answer; nothing for netstrings.
    pub delimiter: &'a [u8],
}

impl Expected<'_> {
    /// All the answers to what a client sent.
    fn answers(&self, sent: &[u8]) -> Vec<u8> {
        let mut answers = Vec::new();
        for event in (self.decode)(sent) {
            match event {
                Event::Frame { body, .. } => {
                    self.write(&answer(&sent[body.0..body.1]), &mut answers);
                }
                Event::Error { fault, .. } if fault.fatal && !self.answers_fatal => {}
                _ => self.write(ERROR, &mut answers),
            }
        }
        answers
    }

    fn write(&self, frame: &[u8], answers: &mut Vec<u8>) {
        if self.delimiter.is_empty() {
            answers.extend_from_slice(format!("{}:", frame.len()).as_bytes());
            answers.extend_from_slice(frame);
            answers.push(b',');
        } else {
            answers.extend_from_slice(frame);
            answers.extend_from_slice(self.delimiter);
        }
    }
}

/// One end of a connection, until it leaves.
pub struct Client {
    stream: Option<MemoryStream>,
    /// What the connection took.
    sent: Vec<u8>,
    /// What came.
    read: Vec<u8>,
    /// Whether the connection was reset under it.
    reset: bool,
}

impl Client {
    pub fn new(stream: MemoryStream) -> Self {
        Self { stream: Some(stream), sent: Vec::new(), read: Vec::new(), reset: false }
    }

    /// Writes as much as there is room for now.
    pub fn write(&mut self, bytes: &[u8]) {
        let Some(stream) = &mut self.stream else { return };
        if let Poll::Ready(Ok(n)) = Pin::new(stream).poll_write(&mut now(), bytes) {
            self.sent.extend_from_slice(&bytes[..n]);
        }
    }

    /// Reads at most this many of the bytes that are there now.
    pub fn read_now(&mut self, most: usize) {
        let Some(stream) = &mut self.stream else { return };
        let mut room = [0; 64];
        let mut room = ReadBuf::new(&mut room[..most]);
        match Pin::new(stream).poll_read(&mut now(), &mut room) {
            Poll::Ready(Ok(())) => self.read.extend_from_slice(room.filled()),
            Poll::Ready(Err(_)) => self.reset = true,
            Poll::Pending => {}
        }
    }

    pub fn half_close(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        assert!(
            Pin::new(stream).poll_shutdown(&mut now()).is_ready(),
            "a shutdown waits for nothing"
        );
    }

    pub fn abort(&mut self) {
        if let Some(stream) = self.stream.take() {
            stream.abort();
        }
    }

    pub fn close(&mut self) {
        self.stream = None;
    }

    /// Whether it is still there.
    pub fn waited(&self) -> bool {
        self.stream.is_some()
    }

    /// Reads to the end of the stream, or to an error.
    pub async fn read_rest(&mut self) {
        if let Some(stream) = &mut self.stream {
            self.reset |= stream.read_to_end(&mut self.read).await.is_err();
        }
    }

    /// The received answers are the first ones; they are all of them if nothing was in the way and
    /// the client stayed.
    pub fn check(&self, expected: &Expected<'_>, undisturbed: bool) {
        let answers = expected.answers(&self.sent);
        let shown = || (self.read.escape_ascii().to_string(), answers.escape_ascii().to_string());
        assert!(answers.starts_with(&self.read), "other answers than these: {:?}", shown());
        if undisturbed && self.waited() {
            assert!(
                !self.reset && self.read.len() == answers.len(),
                "reset {}, {:?}",
                self.reset,
                shown()
            );
        }
    }
}

fn now() -> Context<'static> {
    Context::from_waker(Waker::noop())
}
