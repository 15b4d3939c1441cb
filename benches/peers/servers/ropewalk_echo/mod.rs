//! The echo server itself.

use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;
use clap::Parser;
use ropewalk::codec::custom::take_frame;
use ropewalk::codec::{CodecError, Decoder, Encoder};
use ropewalk::{
    Bytes, BytesMut, CallDeadlineLayer, ConnectionLimitLayer, FrameLogLayer, LengthPrefixed, Lines, LogLayer,
    Netstring, Reply, Server, Session, StateLayer, framed, service_fn, session,
};
use ropewalk_peers::{Mode, Result, ServerArgs, raise_descriptor_limit};
use tokio::runtime::Builder;
use tower::ServiceBuilder;

/// More than the descriptor limit lets in.
const CONNECTIONS: usize = 1_000_000;

pub fn main() -> Result {
    let args = ServerArgs::parse();
    raise_descriptor_limit();
    let mut runtime = match args.threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    runtime.worker_threads(args.threads.max(1)).enable_all().build()?.block_on(run(&args))
}

/// Lines as somebody writes a codec of their own: `shares` is the way of most, the other that of
/// the documentation.
#[derive(Clone)]
struct OwnLines {
    shares: bool,
}

impl Decoder for OwnLines {
    type Item = Bytes;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        let Some(lf) = memchr::memchr(b'\n', src) else { return Ok(None) };
        let line = if self.shares { src.split_to(lf).freeze() } else { take_frame(src, lf) };
        src.advance(1);
        Ok(Some(line))
    }
}

impl Encoder<Bytes> for OwnLines {
    type Error = CodecError;

    fn encode(&mut self, line: Bytes, dst: &mut BytesMut) -> Result<(), CodecError> {
        dst.extend_from_slice(&line);
        dst.extend_from_slice(b"\n");
        Ok(())
    }
}

async fn run(args: &ServerArgs) -> Result {
    match args.mode {
        Mode::Line if args.variant.starts_with("codec") => {
            serve(OwnLines { shares: args.variant == "codec-shares" }, args).await
        }
        Mode::Line => serve(Lines::lf(), args).await,
        // The load generator has frames of 1 MiB at most.
        Mode::Int32 => serve(LengthPrefixed::u32().max(1024 * 1024), args).await,
        Mode::Netstring => serve(Netstring::new(), args).await,
    }
}

async fn serve<C>(codec: C, args: &ServerArgs) -> Result
where
    C: Decoder<Item = Bytes, Error = CodecError> + Encoder<Bytes, Error = CodecError> + Clone + Send + Sync + 'static,
{
    let server = Server::new().listen("tcp:127.0.0.1:0").max_connections(CONNECTIONS).on_listening(|addresses| {
        let address = addresses[0].to_string();
        println!("{}", address.trim_start_matches("tcp:"));
    });
    let server = match args.workers {
        Some(workers) => server.workers(workers),
        None => server,
    };
    match &*args.variant {
        "session" => server.serve(session(codec, plain_loop::<C>)).await,
        "layers" => layered(server, codec, Arc::<str>::from("state")).await,
        "layers-static" => layered(server, codec, "state").await,
        _ => server.serve(framed(codec, service_fn(async |frame: Bytes| Ok(Reply::one(frame))))).await,
    }
    .map_err(|error| error.to_string().into())
}

/// `framed` under five layers.
async fn layered<C, T>(server: Server, codec: C, state: T) -> ropewalk::Result
where
    C: Decoder<Item = Bytes, Error = CodecError> + Encoder<Bytes, Error = CodecError> + Clone + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
{
    // INFO, the default, to the standard error, which the runner throws away.
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let answer = ServiceBuilder::new()
        .layer(FrameLogLayer::new())
        .layer(CallDeadlineLayer::new(Duration::from_secs(60)))
        .layer(StateLayer::new(state))
        .map_response(|reply: Reply<Bytes>| reply)
        .service(service_fn(async |(_, frame): (T, Bytes)| Ok(Reply::one(frame))));
    let server = server.layer(LogLayer::new()).layer(ConnectionLimitLayer::new(CONNECTIONS));
    server.serve(framed(codec, answer)).await
}

async fn plain_loop<C>(mut s: Session<C>) -> ropewalk::Result
where
    C: Decoder<Item = Bytes, Error = CodecError> + Encoder<Bytes, Error = CodecError>,
{
    while let Some(frame) = s.next().await? {
        s.feed(frame)?;
    }
    Ok(())
}
