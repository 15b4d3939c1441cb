//! tokio and tokio-util as every tutorial has it: a task for each connection, `next`, `send`.

use bytes::Bytes;
use clap::Parser;
use futures_util::{SinkExt, StreamExt};
use ropewalk::Netstring;
use ropewalk_peers::{Mode, Result, ServerArgs, listener, raise_descriptor_limit};
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

/// What `LengthDelimitedCodec` decodes is not what it encodes, hence `From`.
async fn echo<C, T>(stream: TcpStream, codec: C)
where
    C: Decoder + Encoder<T>,
    T: From<C::Item>,
{
    let mut framed = Framed::new(stream, codec);
    while let Some(Ok(frame)) = framed.next().await {
        if framed.send(frame.into()).await.is_err() {
            break;
        }
    }
}
