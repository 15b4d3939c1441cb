//! What was encoded on which connection, and the server's end of each.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use ropewalk::Lines;
use ropewalk::codec::CodecError;
use ropewalk::connection::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::codec::{Decoder, Encoder};

/// The requests of each connection, in the order in which they were encoded.
#[derive(Clone, Default)]
pub struct Record(Arc<Mutex<Vec<Vec<String>>>>);

impl Record {
    /// Where the request with this in it was encoded: its connection, its place there, and the
    /// request.
    pub fn find(&self, name: &str) -> Option<(usize, usize, String)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.iter().enumerate().find_map(|(connection, requests)| {
            let at = requests.iter().position(|request| request.contains(name))?;
            Some((connection, at, requests[at].clone()))
        });
        let times = all.iter().flatten().filter(|request| request.contains(name)).count();
        assert!(times <= 1, "{name} was encoded {times} times");
        found
    }
}

/// Lines, and the record of those that are encoded. Each clone of the first is the codec of the
/// next connection.
pub struct Recorded {
    lines: Lines,
    record: Record,
    connection: Option<usize>,
}

impl Recorded {
    pub fn new() -> (Self, Record) {
        let record = Record::default();
        (Self { lines: Lines::lf().max(40), record: record.clone(), connection: None }, record)
    }
}

impl Clone for Recorded {
    fn clone(&self) -> Self {
        let mut all = self.record.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(Vec::new());
        Self {
            lines: self.lines.clone(),
            record: self.record.clone(),
            connection: Some(all.len() - 1),
        }
    }
}

impl Encoder<String> for Recorded {
    type Error = CodecError;

    fn encode(&mut self, line: String, dst: &mut BytesMut) -> Result<(), CodecError> {
        let mut all = self.record.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(requests) = self.connection.and_then(|connection| all.get_mut(connection)) {
            requests.push(line.clone());
        }
        self.lines.encode(line, dst)
    }
}

impl Decoder for Recorded {
    type Item = Bytes;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        self.lines.decode(src)
    }
}

/// The server's end of a connection.
pub struct End {
    stream: Option<Stream>,
    /// What the connection took.
    pub said: Vec<u8>,
    read: Vec<u8>,
}

impl End {
    pub fn new(stream: Stream) -> Self {
        Self { stream: Some(stream), said: Vec::new(), read: Vec::new() }
    }

    /// Writes as much as there is room for now.
    pub fn say(&mut self, bytes: &[u8]) {
        let Some(stream) = &mut self.stream else { return };
        if let Poll::Ready(Ok(n)) = Pin::new(stream).poll_write(&mut now(), bytes) {
            self.said.extend_from_slice(&bytes[..n]);
        }
    }

    /// Reads what is there.
    pub fn read(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        loop {
            let mut room = [0; 256];
            let mut room = ReadBuf::new(&mut room);
            match Pin::new(&mut *stream).poll_read(&mut now(), &mut room) {
                Poll::Ready(Ok(())) if !room.filled().is_empty() => {
                    self.read.extend_from_slice(room.filled());
                }
                _ => return,
            }
        }
    }

    pub fn half_close(&mut self) {
        if let Some(stream) = &mut self.stream {
            let _ = Pin::new(stream).poll_shutdown(&mut now());
        }
    }

    pub fn close(&mut self) {
        self.read();
        self.stream = None;
    }

    pub fn abort(&mut self) {
        self.read();
        if let Some(mut stream) = self.stream.take() {
            stream.abort();
        }
    }

    /// Whether anything of a request arrived of which only one has this in it.
    pub fn has_read(&self, name: &str) -> bool {
        self.read.windows(name.len()).any(|part| part == name.as_bytes())
    }
}

fn now() -> Context<'static> {
    Context::from_waker(Waker::noop())
}
