//! Try it: `redis-server`, then `cargo run --example redis_client -- set greeting hello`, or
//! `cargo run --example redis_client -- --subscribe news` and, in another window, `redis-cli publish news hello`.

mod resp;

use std::io::{Write, stdout};
use std::time::Duration;

use clap::Parser;
use ropewalk::client::{Client, Part, fatal};
use ropewalk::{Error, Remote, Result, Session};

use crate::resp::{Command, Resp, Value};

#[derive(Parser)]
struct Cli {
    #[arg(long, default_value = "tcp:127.0.0.1:6379")]
    to: Remote,
    /// A channel whose messages are printed, also after a reconnect
    #[arg(long)]
    subscribe: Option<String>,
    /// A command and its words
    words: Vec<String>,
}

/// Switches to version 3, in which messages may come between answers, and subscribes.
async fn prepare(mut s: Session<Resp>, channel: Option<String>) -> Result<Session<Resp>> {
    s.feed(Command::new(["HELLO", "3"]))?;
    match s.next().await? {
        Some(Value::Error(text)) => return Err(fatal(Error::other(text))),
        Some(_) => {}
        None => return Err(Error::other("the server has closed the connection")),
    }
    if let Some(channel) = channel {
        // The subscription is confirmed by a message.
        s.feed(Command::new(["SUBSCRIBE", &channel]))?;
    }
    Ok(s)
}

fn part(value: &Value) -> Part {
    if let Value::Push(_) = value { Part::Push } else { Part::Last }
}

#[tokio::main]
async fn main() -> Result {
    let Cli { to, subscribe, words } = Cli::parse();
    let client = Client::new().connect(to).call_within(Duration::from_secs(5)).prepare_with(subscribe.clone(), prepare);
    let client = client.answers(part).on_push(|message: Value| drop(writeln!(stdout(), "{message}")));
    let (redis, handle) = client.pipelined::<Command, _>(Resp)?;
    if !words.is_empty() {
        for answer in redis.ask(Command::new(&words)).await? {
            writeln!(stdout(), "{answer}")?;
        }
    }
    if subscribe.is_some() {
        handle.ended().await;
    }
    Ok(())
}
