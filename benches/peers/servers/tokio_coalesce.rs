//! tokio and tokio-util, written with the cost of a write in mind: answers are fed, and flushed
//! when no frame is left.

use bytes::Bytes;
use clap::Parser;
use ropewalk::Netstring;
use ropewalk_peers::{Mode, Result, ServerArgs, coalesced, listener, raise_descriptor_limit};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::codec::{Decoder, Encoder, Framed, LengthDelimitedCodec, LinesCodec};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    let args = ServerArgs::parse();
    raise_descriptor_limit();
    let listener = TcpListener::from_std(listener()?)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        match args.mode {
            Mode::Line => drop(tokio::spawn(echo::<_, String>(stream, LinesCodec::new()))),
            Mode::Int32 => drop(tokio::spawn(echo::<_, Bytes>(stream, LengthDelimitedCodec::new()))),
            // tokio-util has no netstrings.
            Mode::Netstring => drop(tokio::spawn(echo::<_, Bytes>(stream, Netstring::new()))),
        }
    }
}

async fn echo<C, T>(stream: TcpStream, codec: C)
where
    C: Decoder + Encoder<T>,
    T: From<C::Item>,
{
    let mut framed = Framed::new(stream, codec);
    // Of 8 KiB by default, which would write large answers in parts.
    framed.set_backpressure_boundary(64 * 1024);
    coalesced(framed).await;
}
