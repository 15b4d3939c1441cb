//! Try it: `cargo run --example websocket`, then `websocat --binary ws://127.0.0.1:8007`: each line comes back.

use std::{future::ready, io, time::Duration};

use clap::Parser;
use futures::{SinkExt, StreamExt, TryStreamExt};
use ropewalk::cli::ServerArgs;
use ropewalk::connection::Stream;
use ropewalk::{Bytes, Connection, Error, Lines, Result, framed, reply_fn};
use tokio::{io::empty, io::join, time::timeout};
use tokio_tungstenite::{accept_async_with_config, tungstenite::Message, tungstenite::protocol::WebSocketConfig};
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};
use tower::{Service, service_fn};

/// A connection whose bytes are the content of the messages; any codec and leaf can be used on it.
async fn unwrapped(mut connection: Connection) -> Result<Connection> {
    let config = WebSocketConfig::default().max_message_size(Some(64 * 1024));
    let stream = connection.replace_stream(Stream::from_io(empty()));
    let handshake = accept_async_with_config(stream, Some(config));
    let socket = timeout(Duration::from_secs(10), handshake).await.map_err(Error::other)?.map_err(Error::other)?;
    let (sink, messages) = socket.split();
    let bytes = messages
        .map_err(io::Error::other)
        .try_filter_map(|message| ready(Ok((message.is_binary() || message.is_text()).then(|| message.into_data()))));
    let sink = sink.sink_map_err(io::Error::other).with(|bytes| ready(Ok::<_, io::Error>(Message::Binary(bytes))));
    let io = join(StreamReader::new(bytes), SinkWriter::new(CopyToBytes::new(sink)));
    connection.replace_stream(Stream::from_io(io));
    Ok(connection)
}

#[tokio::main]
async fn main() -> Result {
    let lines = framed(Lines::any(), reply_fn(|line: Bytes| line));
    let service = service_fn(move |connection| {
        let mut lines = lines.clone();
        async move { lines.call(unwrapped(connection).await?).await }
    });
    ServerArgs::parse().server().serve(service).await
}
