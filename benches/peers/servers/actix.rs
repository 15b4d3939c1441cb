//! actix-server and actix-codec, coalescing by hand: one worker.

use actix_codec::{Decoder, Encoder, Framed, LinesCodec};
use actix_rt::net::TcpStream;
use actix_server::Server;
use actix_service::fn_service;
use bytes::Bytes;
use clap::Parser;
use ropewalk::Netstring;
use ropewalk_peers::{Mode, Result, ServerArgs, coalesced, listener, raise_descriptor_limit};
use tokio_util::codec::LengthDelimitedCodec;

#[actix_rt::main]
async fn main() -> Result {
    let mode = ServerArgs::parse().mode;
    raise_descriptor_limit();
    let service = move || {
        fn_service(move |stream: TcpStream| async move {
            stream.set_nodelay(true)?;
            match mode {
                Mode::Line => echo::<_, String>(stream, LinesCodec::new()).await,
                Mode::Int32 => echo::<_, Bytes>(stream, LengthDelimitedCodec::new()).await,
                // actix-codec has no netstrings.
                Mode::Netstring => echo::<_, Bytes>(stream, Netstring::new()).await,
            }
            Ok::<_, std::io::Error>(())
        })
    };
    Server::build().workers(1).disable_signals().listen("echo", listener()?, service)?.run().await?;
    Ok(())
}

async fn echo<C, T>(stream: TcpStream, codec: C)
where
    C: Decoder + Encoder<T>,
    T: From<C::Item>,
{
    coalesced(Framed::new(stream, codec)).await;
}
