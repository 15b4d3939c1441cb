//! A command, and the reply to it.

use std::time::Duration;

use ropewalk::{Error, Lines, Result, Session};
use tokio::time::timeout;

/// How long the server may take for a line of its reply.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends a line, if there is one, and waits for its reply, which must be positive.
pub(crate) async fn say(s: &mut Session<Lines>, line: Option<&str>) -> Result {
    line.map_or(Ok(()), |line| s.feed(line))?;
    loop {
        let reply = timeout(PATIENCE, s.next()).await??.ok_or_else(|| Error::other("no reply"))?;
        match &reply[..] {
            // More lines follow.
            [_, _, _, b'-', ..] => {}
            [b'2' | b'3', ..] => return Ok(()),
            _ => return Err(Error::other(format!("the server says {}", reply.escape_ascii()))),
        }
    }
}
