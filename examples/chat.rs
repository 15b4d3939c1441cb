//! Try it: `cargo run --example chat`, then in two terminals `nc 127.0.0.1 8007`: each reads what the other types.

use clap::Parser;
use ropewalk::cli::ServerArgs;
use ropewalk::outbox::Capacity;
use ropewalk::{Bytes, Lines, Result, Room, Session, SlowConsumer, StateLayer, session_with};

/// The first byte of a telnet command, and the two bytes that enclose a subnegotiation of an option.
const IAC: u8 = 255;
const SB: u8 = 250;
const SE: u8 = 240;

/// Sends each guest's lines to all others without waiting for any: a guest with 1 MiB unread is disconnected.
async fn chat(mut s: Session<Lines>, room: Room<Bytes>) -> Result {
    let unread = Capacity::frames(64 * 1024).bytes(1024 * 1024, Bytes::len);
    let (id, me) = (s.id(), room.join(s.outbox(unread, SlowConsumer::Disconnect)));
    s.feed(format!("* you are guest {id}"))?;
    while let Some(line) = s.next().await? {
        // Cut and cleaned, so that no guest can fake another's line or control another's terminal.
        // Bytes that are not UTF-8 are replaced.
        let line = without_telnet(&line);
        let text: String = String::from_utf8_lossy(&line).chars().filter(|c| !c.is_control()).take(500).collect();
        room.send_except(me.id(), format!("guest {id}: {text}").into()).await;
    }
    Ok(())
}

/// The typed text, without the commands that a telnet client sends to the server itself (RFC 854).
fn without_telnet(line: &[u8]) -> Vec<u8> {
    let (mut typed, mut rest) = (Vec::with_capacity(line.len()), line);
    while let Some((&byte, after)) = rest.split_first() {
        let said = match rest {
            // A subnegotiation, up to its end.
            [IAC, SB, ..] => rest.windows(2).position(|end| end == [IAC, SE]).map_or(rest.len(), |at| at + 2),
            // If it is doubled, it is a byte of the text.
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
    let room = StateLayer::new(Room::new());
    ServerArgs::parse().server().layer(room).serve(session_with(Lines::any(), chat)).await
}
