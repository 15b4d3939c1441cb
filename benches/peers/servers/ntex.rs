//! ntex, one worker: `recv` and `encode`, which gathers answers by itself.

use std::io::{Error, ErrorKind};

use clap::Parser;
use ntex::codec::{Decoder, Encoder};
use ntex::io::Io;
use ntex::service::fn_service;
use ntex::util::{BytePages, Bytes, BytesMut};
use ropewalk_peers::{Mode, Result, ServerArgs, listener, raise_descriptor_limit};

/// ntex has a trait of its own for codecs, and no codec of these formats.
struct Codec(Mode);

impl Decoder for Codec {
    type Item = Bytes;
    type Error = Error;

    fn decode(&self, src: &mut BytesMut) -> Result<Option<Bytes>, Error> {
        let (head, content, tail) = match self.0 {
            Mode::Line => match memchr::memchr(b'\n', src) {
                Some(end) => (0, end, 1),
                None => return Ok(None),
            },
            Mode::Int32 => match src.first_chunk::<4>() {
                Some(prefix) => (4, u32::from_be_bytes(*prefix) as usize, 0),
                None => return Ok(None),
            },
            Mode::Netstring => {
                let digits = src.iter().take_while(|byte| byte.is_ascii_digit()).count();
                let length = src[..digits].iter().fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'));
                (digits + 1, length, 1)
            }
        };
        if src.len() < head + content + tail {
            return Ok(None);
        }
        if self.0 == Mode::Netstring && (src[head - 1] != b':' || src[head + content] != b',') {
            return Err(ErrorKind::InvalidData.into());
        }
        src.advance_to(head);
        let frame = src.split_to(content);
        src.advance_to(tail);
        Ok(Some(frame))
    }
}

impl Encoder for Codec {
    type Item = Bytes;
    type Error = Error;

    fn encodev(&self, frame: Bytes, dst: &mut BytePages) -> Result<(), Error> {
        match self.0 {
            Mode::Line => {}
            Mode::Int32 => {
                let length = u32::try_from(frame.len()).map_err(Error::other)?;
                dst.extend_from_slice(&length.to_be_bytes());
            }
            Mode::Netstring => {
                let mut head = [0; 21];
                let mut rest = &mut head[..];
                std::io::Write::write_fmt(&mut rest, format_args!("{}:", frame.len()))?;
                let unused = rest.len();
                dst.extend_from_slice(&head[..head.len() - unused]);
            }
        }
        dst.extend_from_slice(&frame);
        match self.0 {
            Mode::Line => dst.extend_from_slice(b"\n"),
            Mode::Int32 => {}
            Mode::Netstring => dst.extend_from_slice(b","),
        }
        Ok(())
    }
}

async fn echo(io: Io, codec: Codec) -> Result<(), Error> {
    while let Ok(Some(frame)) = io.recv(&codec).await {
        io.encode(frame, &codec)?;
    }
    Ok(())
}

#[ntex::main]
async fn main() -> Result {
    let mode = ServerArgs::parse().mode;
    raise_descriptor_limit();
    ntex::server::build()
        .workers(1)
        .disable_signals()
        .listen("echo", listener()?, async move |_| fn_service(move |io: Io| echo(io, Codec(mode))))?
        .run()
        .await?;
    Ok(())
}
