//! The clients of a redis-server that others have written: `redis`, its multiplexed connection, and
//! `fred`.

mod driver;

use std::time::Duration;

use fred::clients::Client as Fred;
use fred::interfaces::ClientLike;
use fred::types::CustomCommand;
use fred::types::config::Config;
use futures_util::future::join_all;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use ropewalk::Bytes;
use ropewalk_peers::Result;

use self::driver::{Caller, Lot, run};

fn main() -> Result {
    run(async |name, addr| {
        Ok(match name {
            "redis" => {
                let client = redis::Client::open(format!("redis://{addr}/"))?;
                // As long as ours, so that a busy machine does not fail it.
                let config = AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(30)));
                Some(Theirs::Redis(client.get_multiplexed_async_connection_with_config(&config).await?))
            }
            "fred" => {
                let client = Fred::new(Config::from_url(&format!("redis://{addr}"))?, None, None, None);
                client.init().await?;
                Some(Theirs::Fred(client))
            }
            _ => None,
        })
    })
}

#[derive(Clone)]
enum Theirs {
    Redis(MultiplexedConnection),
    Fred(Fred),
}

impl Caller for Theirs {
    async fn one(&mut self, line: Bytes) -> Result {
        match self {
            Self::Redis(connection) => {
                let mut command = redis::cmd("ECHO");
                let answer: Vec<u8> = command.arg(&line[..]).query_async(connection).await?;
                driver::check(answer == line)
            }
            Self::Fred(client) => {
                let command = CustomCommand::new_static("ECHO", None, false);
                let answer: Bytes = client.custom(command, vec![line.clone()]).await?;
                driver::check(answer == line)
            }
        }
    }

    async fn wave(&mut self, lot: Lot<'_>) -> Result {
        let client = &*self;
        let ask = async |line: Bytes| client.clone().one(line).await;
        // Nested, as a longer one would put each into a task of its own.
        let parts = join_all(lot.parts().map(|part| join_all(part.lines().map(ask))));
        parts.await.into_iter().flatten().collect()
    }
}
