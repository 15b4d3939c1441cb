//! The servers, and the answers to commands.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use ropewalk::client::{Backoff, Client, Pipelined};
use ropewalk::codec::LineOrRaw;
use ropewalk::{Bytes, LineRaw, Remote, Result};
use tower::balance::p2c::Balance;
use tower::buffer::Buffer;
use tower::discover::ServiceList;
use tower::{BoxError, Service, ServiceExt};

use super::client_codec::{Memcached, part};
use super::command::Command;
use super::ring::Ring;

/// Commands that wait for a server.
const WAITING: usize = 1024;

type Frames = Vec<LineOrRaw>;
/// The connections to one server.
type Balanced = Balance<ServiceList<Vec<Pipelined<Bytes, Frames>>>, Bytes>;
/// A connection, shared by all clients of the proxy.
type Shared = Buffer<Bytes, <Balanced as Service<Bytes>>::Future>;

pub(crate) struct Pool {
    ring: Ring,
    servers: Vec<Shared>,
}

impl Pool {
    pub(crate) fn new(remotes: Vec<Remote>, connections: u16) -> Result<Self> {
        let names: Vec<String> = remotes.iter().map(Remote::to_string).collect();
        let servers = remotes.into_iter().map(|remote| server(&remote, connections)).collect::<Result<_>>()?;
        Ok(Self { ring: Ring::new(&names), servers })
    }

    pub(crate) async fn answer(&self, command: Command) -> Bytes {
        match command {
            Command::Get(verb, keys) => self.get(verb, keys).await,
            Command::Change { key, text, quiet } => {
                let answer = match self.ask(self.ring.pick(key.as_bytes()), text).await {
                    Ok(frames) => bytes(&frames),
                    Err(error) => format!("SERVER_ERROR {error}\r\n").into(),
                };
                if quiet { Bytes::new() } else { answer }
            }
            Command::Unknown => Bytes::from_static(b"ERROR\r\n"),
        }
    }

    /// Asks each server for its keys. If a server is gone, its keys are misses, because this is a cache.
    async fn get(&self, verb: &str, keys: Vec<String>) -> Bytes {
        let mut shares: BTreeMap<usize, String> = BTreeMap::new();
        for key in keys {
            let share = shares.entry(self.ring.pick(key.as_bytes())).or_insert_with(|| verb.to_owned());
            *share = format!("{share} {key}");
        }
        let asked = shares.into_iter().map(|(server, command)| self.ask(server, command.into()));
        let mut all = Vec::new();
        for mut frames in join_all(asked).await.into_iter().flatten() {
            // `END`, or an error.
            frames.pop();
            all.extend_from_slice(&bytes(&frames));
        }
        [&all[..], b"END\r\n"].concat().into()
    }

    // Boxed, because the compiler can't prove that the type of `Buffer`'s future is `Send`.
    fn ask(&self, server: usize, command: Bytes) -> BoxFuture<'static, Result<Frames, BoxError>> {
        Box::pin(self.servers[server].clone().oneshot(command))
    }
}

fn server(remote: &Remote, connections: u16) -> Result<Shared> {
    let connect = |_| {
        let client = Client::new()
            .connect(remote.clone())
            .connect_within(Duration::from_secs(1))
            .backoff(Backoff::between(Duration::from_millis(50), Duration::from_secs(1)))
            .call_within(Duration::from_secs(2))
            // Short, because every command for a server that is gone would wait.
            .fail_fast_after(Duration::from_millis(200))
            .answers(part);
        Ok(client.pipelined(Memcached(LineRaw::crlf()))?.0)
    };
    let connections = (0..connections).map(connect).collect::<Result<Vec<_>>>()?;
    Ok(Buffer::new(Balance::new(ServiceList::new(connections)), WAITING))
}

/// The answer as it was received. The frame of data contains its end, that of a line doesn't.
fn bytes(frames: &[LineOrRaw]) -> Bytes {
    let mut all = Vec::new();
    for frame in frames {
        match frame {
            LineOrRaw::Line(line) => all.extend_from_slice(&[line, &b"\r\n"[..]].concat()),
            LineOrRaw::Raw(data) => all.extend_from_slice(data),
        }
    }
    all.into()
}
