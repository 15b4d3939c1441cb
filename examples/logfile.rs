//! Try it: `cargo run --example logfile -- --file /tmp/log`, then `date | nc -N 127.0.0.1 8007; cat /tmp/log`.

use std::path::PathBuf;

use bytes::Bytes;
use clap::Parser;
use ropewalk::cli::ServerArgs;
use ropewalk::{Lines, Result, Session, StateLayer, session_with};
use tokio::fs::File;
use tokio::io::{AsyncWriteExt, BufWriter};
use tokio::sync::mpsc::{Receiver, Sender, channel};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    server: ServerArgs,
    /// The file that lines are appended to
    #[arg(long)]
    file: PathBuf,
}

/// One for each connection: hands on its lines, and reads no faster than they are written.
async fn log(mut s: Session<Lines>, queue: Sender<Bytes>) -> Result {
    while let Some(line) = s.next().await? {
        queue.send(line).await?;
    }
    Ok(())
}

/// One for all: writes until the last connection and the server are gone, and nothing is left in the queue.
async fn write(file: File, mut lines: Receiver<Bytes>) -> Result {
    let mut file = BufWriter::new(file);
    while let Some(line) = lines.recv().await {
        file.write_all(&line).await?;
        file.write_all(b"\n").await?;
        if lines.is_empty() {
            file.flush().await?;
        }
    }
    Ok(file.flush().await?)
}

#[tokio::main]
async fn main() -> Result {
    let cli = Cli::parse();
    let file = File::options().append(true).create(true).open(&cli.file).await?;
    let (queue, lines) = channel(64);
    // CR LF or LF ends a line, so that there is never a line end inside one.
    let serve = cli.server.server().layer(StateLayer::new(queue)).serve(session_with(Lines::any(), log));
    // A server that can't write its log any more ends with that error, and so do its connections.
    tokio::try_join!(serve, write(file, lines))?;
    Ok(())
}
