//! Bytes to requests, answers to bytes.

use ropewalk::{Bytes, BytesMut, CodecError, Decoder, Encoder, LineOrRaw, LineRaw, Lines};

use super::cache::Item;
use super::request::{Command, Request, parse};

/// The largest value, in bytes.
pub(crate) const MAX_VALUE: usize = 1024 * 1024;
/// The longest command line, in bytes: a `get` of a thousand of the longest keys.
pub(crate) const MAX_LINE: usize = 256 * 1024;

/// What ends a line, and the data behind one.
const END: &[u8] = b"\r\n";

/// The text protocol: command lines, and behind those that store something its bytes.
#[derive(Clone, Debug)]
pub(crate) struct Memcache {
    wire: LineRaw,
    max_value: usize,
    /// The request that lacks its data. Raw bytes that come while there is none are of a value nobody wants.
    pending: Option<Request>,
}

impl Memcache {
    /// With the most bytes a command line may have, and a value.
    pub(crate) fn new(max_line: usize, max_value: usize) -> Self {
        // The protocol says CR LF, and people type LF.
        Self { wire: LineRaw::new(Lines::any().max(max_line).skip_too_long()), max_value, pending: None }
    }

    fn read(
        &mut self,
        src: &mut BytesMut,
        decode: fn(&mut LineRaw, &mut BytesMut) -> Result<Option<LineOrRaw>, CodecError>,
    ) -> Result<Option<Request>, CodecError> {
        while let Some(item) = decode(&mut self.wire, src)? {
            let request = match item {
                LineOrRaw::Line(line) => self.line(line),
                LineOrRaw::Raw(data) => self.data(&data),
            };
            // What is no request is an error of its own, and the connection goes on.
            if let Some(request) = request.map_err(CodecError::parse)? {
                return Ok(Some(request));
            }
        }
        Ok(None)
    }

    /// The request of a line; `None` if its data has yet to come.
    fn line(&mut self, line: Bytes) -> Result<Option<Request>, &'static str> {
        let (request, length) = parse(line);
        let Some(length) = length else { return request.map(Some) };
        match (request, usize::try_from(length)) {
            (Ok(request), Ok(length)) if length <= self.max_value => {
                self.wire.raw_whole(length + END.len());
                self.pending = Some(request);
                Ok(None)
            }
            (request, _) => {
                // Too large, or for a request that is wrong: it is dropped as it comes.
                self.wire.raw(length.saturating_add(END.len() as u64));
                request.map(Some)
            }
        }
    }

    fn data(&mut self, data: &[u8]) -> Result<Option<Request>, &'static str> {
        let Some(mut request) = self.pending.take() else { return Ok(None) };
        let Some(value) = data.strip_suffix(END) else {
            return if request.noreply { Ok(None) } else { Err("CLIENT_ERROR bad data chunk") };
        };
        if let Command::Store(store) = &mut request.command {
            // Of its own size: what is kept for long must not keep alive all that was read with it.
            store.value = Some(Bytes::copy_from_slice(value));
        }
        Ok(Some(request))
    }
}

impl Decoder for Memcache {
    type Item = Request;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Request>, CodecError> {
        self.read(src, LineRaw::decode)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Request>, CodecError> {
        self.read(src, LineRaw::decode_eof)
    }
}

/// What a request is answered with.
#[derive(Debug)]
pub(crate) enum Answer {
    Line(&'static str),
    Text(String),
    Number(u64),
    /// An item; with `last`, and the end of all items.
    Value {
        key: Bytes,
        item: Item,
        with_cas: bool,
        last: bool,
    },
}

impl Encoder<Answer> for Memcache {
    type Error = CodecError;

    fn encode(&mut self, answer: Answer, dst: &mut BytesMut) -> Result<(), CodecError> {
        match answer {
            Answer::Line(line) => dst.extend_from_slice(line.as_bytes()),
            Answer::Text(text) => dst.extend_from_slice(text.as_bytes()),
            Answer::Number(n) => put_number(dst, n),
            Answer::Value { key, item, with_cas, last } => {
                put_value(dst, &key, &item, with_cas);
                if !last {
                    return Ok(());
                }
                dst.extend_from_slice(b"END");
            }
        }
        dst.extend_from_slice(END);
        Ok(())
    }
}

/// `VALUE key flags length [cas]`, and the value.
fn put_value(dst: &mut BytesMut, key: &[u8], item: &Item, with_cas: bool) {
    // Room for the numbers as well, so that it grows once.
    dst.reserve(key.len() + item.value.len() + 80);
    dst.extend_from_slice(b"VALUE ");
    dst.extend_from_slice(key);
    dst.extend_from_slice(b" ");
    put_number(dst, item.flags);
    dst.extend_from_slice(b" ");
    put_number(dst, item.value.len());
    if with_cas {
        dst.extend_from_slice(b" ");
        put_number(dst, item.cas);
    }
    dst.extend_from_slice(END);
    dst.extend_from_slice(&item.value);
    dst.extend_from_slice(END);
}

fn put_number(dst: &mut BytesMut, n: impl itoa::Integer) {
    dst.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}
