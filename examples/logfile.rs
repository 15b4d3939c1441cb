//! Try it: `cargo run --example logfile -- --file /tmp/log`, then `date | nc -N 127.0.0.1 8007; cat /tmp/log`.

use std::io;
use std::path::PathBuf;

use clap::Parser;
use ropewalk::cli::ServerArgs;
use ropewalk::{Bytes, Lines, Result, Session, StateLayer, session_with};
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// How many lines may wait to be written.
const QUEUE: usize = 256;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    server: ServerArgs,
    /// The file that lines are appended to
    #[arg(long)]
    file: PathBuf,
}

/// Runs for each connection: passes on its lines, and reads no faster than they are written.
async fn log(mut s: Session<Lines>, queue: Sender<Bytes>) -> Result {
    while let Some(line) = s.next().await? {
        queue.send(line).await?;
    }
    Ok(())
}

/// Runs once: writes the lines, until the server and its last connection are gone and the queue is empty.
async fn write(mut file: File, mut lines: Receiver<Bytes>) -> Result {
    let mut batch = Vec::new();
    while lines.recv_many(&mut batch, QUEUE).await > 0 {
        let mut text = batch.join(&b'\n');
        text.push(b'\n');
        batch.clear();
        append(&mut file, &text).await?;
    }
    Ok(())
}

/// Appends lines. If not all of them fit, as on a disk that is full, those that do are whole.
async fn append(file: &mut File, text: &[u8]) -> io::Result<()> {
    let before = file.metadata().await?.len();
    // An error may show only after the flush.
    let appended = async { file.write_all(text).await.and(file.flush().await) }.await;
    let Err(error) = appended else { return Ok(()) };
    let written = usize::try_from(file.metadata().await?.len().saturating_sub(before)).unwrap_or(usize::MAX);
    let lines = text.get(..written).unwrap_or_default();
    let whole = lines.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    // A file that can't be truncated is a device.
    let _ = file.set_len(before + whole as u64).await;
    Err(error)
}

#[tokio::main]
async fn main() -> Result {
    let cli = Cli::parse();
    let file = File::options().append(true).create(true).open(&cli.file).await?;
    let (queue, lines) = channel(QUEUE);
    // CR LF or LF ends a line, so that there is never a line end inside one; and the last one may have no end.
    let codec = Lines::any().final_line();
    let serve = cli.server.server().layer(StateLayer::new(queue)).serve(session_with(codec, log));
    // A server that can't write its log any more ends with that error, and so do its connections.
    tokio::try_join!(serve, write(file, lines))?;
    Ok(())
}
