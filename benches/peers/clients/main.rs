//! Clients of lines, and ours of RESP: `tower` and `ask` are ropewalk's two ways to call, `hand`
//! and `hand-joined` are what one writes on tokio-util, `resp` is ropewalk's against a
//! redis-server. `SHAPE ADDR` as in `driver`.

mod driver;
mod hand;
#[rustfmt::skip]
#[path = "../../../examples/redis_client/resp.rs"]
mod resp;

use std::net::SocketAddr;

use futures_util::future::join_all;
use ropewalk::client::{Client, Pipelined};
use ropewalk::{Bytes, Lines};
use ropewalk_peers::Result;
use tower::{Service, ServiceExt};

use self::driver::{Caller, Lot, run};
use self::hand::Hand;
use self::resp::{Command, Resp, Value};

fn main() -> Result {
    run(async |name, addr| {
        Ok(match name {
            "tower" => Some(Ours::Tower(lines(addr)?)),
            "ask" => Some(Ours::Ask(lines(addr)?)),
            "hand" => Some(Ours::Hand(Hand::new(addr).await?)),
            "hand-joined" => Some(Ours::HandJoined(Hand::new(addr).await?)),
            "resp" => Some(Ours::Resp(
                Client::new().connect(format!("tcp:{addr}")).in_flight(driver::IN_FLIGHT).pipelined(Resp)?.0,
            )),
            _ => None,
        })
    })
}

fn lines(addr: SocketAddr) -> Result<Pipelined<Bytes, Bytes>> {
    Ok(Client::new().connect(format!("tcp:{addr}")).in_flight(driver::IN_FLIGHT).pipelined(Lines::lf())?.0)
}

#[derive(Clone)]
enum Ours {
    Tower(Pipelined<Bytes, Bytes>),
    Ask(Pipelined<Bytes, Bytes>),
    Hand(Hand),
    /// The same, called as `ask` is: futures that are joined, each of which leaves its waker.
    HandJoined(Hand),
    Resp(Pipelined<Command, Value>),
}

fn echo(line: &Bytes) -> Command {
    Command::new([b"ECHO", &line[..]])
}

impl Caller for Ours {
    async fn one(&mut self, line: Bytes) -> Result {
        let answer = match self {
            Self::Tower(service) => service.ready().await?.call(line.clone()).await?,
            Self::Ask(service) => service.ask(line.clone()).await?,
            Self::Hand(hand) | Self::HandJoined(hand) => hand.start(line.clone()).await?.await?,
            Self::Resp(service) => {
                let answer = service.ready().await?.call(echo(&line)).await?;
                return driver::check(answer == Value::Text(line));
            }
        };
        driver::check(answer == line)
    }

    async fn wave(&mut self, lot: Lot<'_>) -> Result {
        match self {
            Self::Tower(service) => {
                let mut calls = Vec::with_capacity(lot.len());
                for line in lot.lines() {
                    calls.push((line.clone(), service.ready().await?.call(line)));
                }
                for (line, call) in calls {
                    driver::check(call.await? == line)?;
                }
            }
            Self::Ask(service) => {
                let service = &*service;
                let ask = async |line: Bytes| driver::check(service.ask(line.clone()).await? == line);
                // Nested, as a longer one would put each into a task of its own.
                let parts = join_all(lot.parts().map(|part| join_all(part.lines().map(ask))));
                parts.await.into_iter().flatten().collect::<Result<()>>()?;
            }
            Self::Hand(hand) => {
                let mut calls = Vec::with_capacity(lot.len());
                for line in lot.lines() {
                    calls.push((line.clone(), hand.start(line).await?));
                }
                for (line, call) in calls {
                    driver::check(call.await? == line)?;
                }
            }
            Self::HandJoined(hand) => {
                let hand = &*hand;
                let ask = async |line: Bytes| driver::check(hand.start(line.clone()).await?.await? == line);
                let parts = join_all(lot.parts().map(|part| join_all(part.lines().map(ask))));
                parts.await.into_iter().flatten().collect::<Result<()>>()?;
            }
            Self::Resp(service) => {
                let mut calls = Vec::with_capacity(lot.len());
                for line in lot.lines() {
                    calls.push((service.ready().await?.call(echo(&line)), line));
                }
                for (call, line) in calls {
                    driver::check(call.await? == Value::Text(line))?;
                }
            }
        }
        Ok(())
    }
}
