//! Try it: `cargo run --example chat`, then in two terminals `nc 127.0.0.1 8007`: each reads what the other types.

use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use ropewalk::cli::ServerArgs;
use ropewalk::{Lines, Result, Session, StateLayer, Utf8, session_with};
use tokio::sync::broadcast::{Sender, channel};

/// A line, and the number of the connection that said it.
type Said = (u64, Arc<str>);

/// What one says, all others hear, none waiting for another.
async fn chat(mut s: Session<Utf8<Lines>>, room: Sender<Said>) -> Result {
    let (id, mut heard) = (s.id(), room.subscribe());
    s.reply(format!("* you are guest {id}"))?;
    loop {
        tokio::select! {
            line = s.next() => {
                let Some(line) = line? else { return Ok(()) };
                // Cut and cleaned: nobody can fake another's line, or do things to another's terminal.
                let text: String = line.chars().filter(|c| !c.is_control()).take(500).collect();
                room.send((id, format!("guest {id}: {text}").into()))?;
            }
            said = heard.recv() => match said {
                Ok((from, line)) if from != id => s.reply(&*line)?,
                Ok(_) => {}
                // More was said than fits in the room.
                Err(lagged) => s.reply(format!("* {lagged}"))?,
            },
        }
    }
}

#[tokio::main]
async fn main() -> Result {
    let (room, _) = channel(1024);
    // Who does not read is dropped: with 1 MiB unread, by an error of `reply`; or after 5 s without taking a byte.
    let chat = session_with(Lines::any().utf8(), chat).write_stall(Duration::from_secs(5));
    ServerArgs::parse().server().layer(StateLayer::new(room)).serve(chat).await
}
