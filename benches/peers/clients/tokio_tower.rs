//! tokio-tower's pipelining client behind tower's `Buffer`, as several callers need it:
//! `tokio-tower`.

mod driver;

use ropewalk::{Bytes, Lines};
use ropewalk_peers::Result;
use tokio::net::TcpStream;
use tokio_tower::pipeline::Client;
use tokio_util::codec::Framed;
use tower::buffer::Buffer;
use tower::{Service, ServiceExt};

use self::driver::{Caller, IN_FLIGHT, Lot, run};

type Inner = Client<Framed<TcpStream, Lines>, tokio_tower::Error<Framed<TcpStream, Lines>, Bytes>, Bytes>;

#[derive(Clone)]
struct Theirs(Buffer<Bytes, <Inner as Service<Bytes>>::Future>);

fn main() -> Result {
    run(async |name, addr| {
        if name != "tokio-tower" {
            return Ok(None);
        }
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let client: Inner = Client::new(Framed::new(stream, Lines::lf()));
        Ok(Some(Theirs(Buffer::new(client, IN_FLIGHT))))
    })
}

impl Caller for Theirs {
    async fn one(&mut self, line: Bytes) -> Result {
        driver::check(self.0.ready().await?.call(line.clone()).await? == line)
    }

    async fn wave(&mut self, lot: Lot<'_>) -> Result {
        let mut calls = Vec::with_capacity(lot.len());
        for line in lot.lines() {
            calls.push((line.clone(), self.0.ready().await?.call(line)));
        }
        for (line, call) in calls {
            driver::check(call.await? == line)?;
        }
        Ok(())
    }
}
