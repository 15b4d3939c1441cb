//! Try it: `cargo run --example chat`, then in two terminals `nc 127.0.0.1 8007`: each reads what the other types.

use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use ropewalk::cli::ServerArgs;
use ropewalk::{Lines, Result, Session, StateLayer, session_with};
use tokio::sync::broadcast::{Sender, channel};

/// What begins a telnet command, and the two around an option that is negotiated at length.
const IAC: u8 = 255;
const SB: u8 = 250;
const SE: u8 = 240;

/// A line, and the number of the connection that said it.
type Said = (u64, Arc<str>);

/// What one guest says all others hear, and no guest waits for another.
async fn chat(mut s: Session<Lines>, room: Sender<Said>) -> Result {
    let (id, mut heard) = (s.id(), room.subscribe());
    s.reply(format!("* you are guest {id}"))?;
    loop {
        tokio::select! {
            line = s.next() => {
                let Some(line) = line? else { return Ok(()) };
                // Cut and cleaned: nobody can fake another's line, or do things to another's terminal.
                // A terminal that is not set to UTF-8 has its other letters replaced.
                let line = without_telnet(&line);
                let text: String = String::from_utf8_lossy(&line).chars().filter(|c| !c.is_control()).take(500).collect();
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

/// What was typed, without what a telnet client says to the server itself (RFC 854).
fn without_telnet(line: &[u8]) -> Vec<u8> {
    let (mut typed, mut rest) = (Vec::with_capacity(line.len()), line);
    while let Some((&byte, after)) = rest.split_first() {
        let said = match rest {
            // An option that is negotiated at length, up to its end.
            [IAC, SB, ..] => rest.windows(2).position(|end| end == [IAC, SE]).map_or(rest.len(), |at| at + 2),
            // Doubled, it is a byte of the text.
            [IAC, IAC, ..] => {
                typed.push(IAC);
                2
            }
            // Will, won't, do and don't, each with an option.
            [IAC, 251..=254, ..] => rest.len().min(3),
            [IAC, ..] => rest.len().min(2),
            _ => {
                typed.push(byte);
                rest = after;
                continue;
            }
        };
        rest = &rest[said..];
    }
    typed
}

#[tokio::main]
async fn main() -> Result {
    let (room, _) = channel(1024);
    // A guest that does not read is dropped: with 1 MiB unread, by an error of `reply`; or after 5 s without taking a
    // byte.
    let chat = session_with(Lines::any(), chat).write_stall(Duration::from_secs(5));
    ServerArgs::parse().server().layer(StateLayer::new(room)).serve(chat).await
}
