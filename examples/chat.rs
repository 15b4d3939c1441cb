//! Try it: `cargo run --example chat`, then in two terminals `nc 127.0.0.1 8007`: each reads what the other types.

use clap::Parser;
use ropewalk::cli::ServerArgs;
use ropewalk::outbox::Capacity;
use ropewalk::{Bytes, Lines, Result, Room, Session, SlowConsumer, StateLayer, session_with};

/// Sends each guest's lines to all others without waiting for any: a guest with 1 MiB unread is disconnected.
async fn chat(mut s: Session<Lines>, room: Room<Bytes>) -> Result {
    let unread = Capacity::frames(64 * 1024).bytes(1024 * 1024, Bytes::len);
    let (id, me) = (s.id(), room.join(s.outbox(unread, SlowConsumer::Disconnect)));
    s.feed(format!("* you are guest {id}"))?;
    while let Some(line) = s.next().await? {
        room.send_except(me.id(), format!("guest {id}: {}", text(&line)).into()).await;
    }
    Ok(())
}

/// Cut, and cleaned of telnet commands (RFC 854) and controls: no guest can fake another's line or clear its screen.
fn text(line: &[u8]) -> String {
    let mut bytes = line.iter().copied();
    let typed = || loop {
        match bytes.next()? {
            255 => match bytes.next()? {
                255 => return Some(255), // Doubled, it is a byte of the text.
                250 => while bytes.next()? != 255 || bytes.next()? != 240 {}, // A subnegotiation, up to its end.
                251..=254 => drop(bytes.next()), // Will, won't, do and don't, each with an option.
                _ => {}
            },
            byte => return Some(byte),
        }
    };
    let typed: Vec<u8> = std::iter::from_fn(typed).collect();
    String::from_utf8_lossy(&typed).chars().filter(|c| !c.is_control()).take(500).collect()
}

#[tokio::main]
async fn main() -> Result {
    ServerArgs::parse().server().layer(StateLayer::new(Room::new())).serve(session_with(Lines::any(), chat)).await
}
