//! The services of the servers under test.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use ropewalk::{
    Connection, ConnectionService, Error, Lines, Result, Session, framed, reply_fn, service_fn,
    session,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tower::Service;

use super::Gauge;

/// Echoes bytes by hand, without a leaf, and says how many connections it has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hold(pub(crate) Gauge);

impl Service<Connection> for Hold {
    type Response = ();
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut connection: Connection) -> Self::Future {
        let gauge = self.0.clone();
        Box::pin(async move {
            let _inside = gauge.enter();
            let mut buf = [0; 1024];
            loop {
                let n = connection.read(&mut buf).await?;
                if n == 0 {
                    break;
                }
                connection.write_all(&buf[..n]).await?;
            }
            connection.close().await;
            Ok(())
        })
    }
}

/// A line in capitals.
pub(crate) fn shout(line: &Bytes) -> Bytes {
    line.to_ascii_uppercase().into()
}

/// Answers in capitals; `slow` when the gate lets it.
pub(crate) fn answering(
    gate: &Arc<Semaphore>,
    inside: &Gauge,
) -> impl Service<Bytes, Response = Bytes, Error = Error, Future: Send + 'static>
+ Clone
+ Send
+ 'static
+ use<> {
    let (gate, inside) = (Arc::clone(gate), inside.clone());
    service_fn(move |line: Bytes| {
        let (gate, inside) = (Arc::clone(&gate), inside.enter());
        async move {
            if line == "slow" {
                gate.acquire().await?.forget();
            }
            drop(inside);
            Ok(shout(&line))
        }
    })
}

pub(crate) fn plain()
-> impl Service<Bytes, Response = Bytes, Error = Error, Future: Send + 'static> + Clone + Send + 'static
{
    answering(&Arc::new(Semaphore::new(0)), &Gauge::default())
}

/// Answers each line in capitals.
pub(crate) fn shouter() -> impl ConnectionService<Error = Error> {
    framed(Lines::lf(), reply_fn(|line: Bytes| shout(&line)))
}

/// Answers each line when the gate opens for it.
pub(crate) fn gated(
    gate: &Arc<Semaphore>,
    inside: &Gauge,
) -> impl ConnectionService<Error = Error> {
    let (gate, inside) = (Arc::clone(gate), inside.clone());
    framed(
        Lines::lf(),
        service_fn(move |line: Bytes| {
            let (gate, inside) = (Arc::clone(&gate), inside.enter());
            async move {
                gate.acquire().await?.forget();
                drop(inside);
                Ok(shout(&line))
            }
        }),
    )
}

/// Echoes, and does with its connection what it is told to.
pub(crate) fn obedient(
    gauge: &Gauge,
) -> impl Service<Connection, Response = (), Error = Error, Future: Send + 'static> + Send + 'static
{
    let gauge = gauge.clone();
    session(Lines::lf(), move |mut s: Session<Lines>| {
        let inside = gauge.enter();
        async move {
            while let Some(line) = s.next().await? {
                match &line[..] {
                    b"fail" => return Err(Error::other("as asked")),
                    b"fall" => panic!("as asked"),
                    b"abort" => {
                        s.abort();
                        break;
                    }
                    _ => s.feed(line)?,
                }
            }
            drop(inside);
            Ok(())
        }
    })
}
