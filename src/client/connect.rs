//! Connects to a remote.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use ropewalk_middleware::proxy::{Header, Version};
use ropewalk_middleware::{Addr, Connection, Error, Peer, Result, Stream};
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::time::{sleep, timeout};

use crate::endpoint::To;
use crate::endpoint::error::ConnectError;
use crate::endpoint::remote::Remote;
use crate::endpoint::tcp::listener::set_options;

/// How long `connect` may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// After this time the next address is tried in addition to those that have not answered, as RFC
/// 8305 recommends.
const STAGGER: Duration = Duration::from_millis(250);

/// Connects to a [`Remote`], or to the remote that a string names. The look-up of a name, the
/// connection itself, its PROXY header and its TLS handshake may take 10 s in total.
///
/// Use [`Session::over`](crate::Session::over) to speak a protocol on it. A
/// [`Client`](super::Client) serves many callers, and reconnects by itself.
///
/// ```
/// use ropewalk::{Bytes, Lines, Server, Session, connect, framed, memory, reply_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> ropewalk::Result {
/// let (endpoint, connector) = memory::endpoint();
/// tokio::spawn(Server::new().listen(endpoint).serve(framed(Lines::lf(), reply_fn(|line: Bytes| line))).into_future());
///
/// let mut s = Session::over(connect(connector).await?, Lines::lf());
/// s.feed("hello")?;
/// assert_eq!(s.next().await?.unwrap(), "hello");
/// # s.close().await
/// # }
/// ```
///
/// # Cancel safety
///
/// Cancel safe: if it is dropped before it is ready, no connection stays open.
///
/// # Errors
///
/// An [`EndpointError`](crate::endpoint::EndpointError) for a string that is not a valid remote,
/// and a [`ConnectError`] that contains the remote and the error of the system or the handshake.
pub async fn connect<R>(to: R) -> Result<Connection>
where
    R: TryInto<Remote, Error: Into<Error>>,
{
    let remote = to.try_into().map_err(Into::into)?;
    match timeout(PATIENCE, dial(&remote, None)).await {
        Ok(connected) => connected,
        Err(_) => Err(ConnectError::new(remote.to_string(), late()).into()),
    }
}

/// The error of an attempt to connect that took too long.
pub(super) fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the time to connect is over")
}

/// Connects, without a deadline. If a PROXY header is written, it describes `source` (a client, and
/// the address to which that client had connected), or without it the connection itself.
pub(super) async fn dial(remote: &Remote, source: Option<(&Addr, &Addr)>) -> Result<Connection> {
    dialed(remote, source)
        .await
        .map_err(|cause| ConnectError::new(remote.to_string(), cause).into())
}

async fn dialed(remote: &Remote, source: Option<(&Addr, &Addr)>) -> io::Result<Connection> {
    let (mut stream, peer) = match &remote.to {
        To::Tcp(address) => tcp(address.resolve().await?, remote.from).await?,
        To::Unix(address) => unix(UnixStream::connect(address.path()).await?),
        To::Dial(dial) => dial.dial().await?,
    };
    if let Some(version) = remote.proxied {
        let own = stream.local_addr().unwrap_or(Addr::Memory);
        let (client, to) = source.unwrap_or_else(|| (&own, peer.addr()));
        let header = Header::new(client.clone(), to.clone());
        stream
            .write_all(&if version == Version::V1 { header.to_v1() } else { header.to_v2() })
            .await?;
        stream.flush().await?;
    }
    #[cfg(feature = "rustls")]
    if let Some(tls) = &remote.tls {
        let name = tls.server_name(remote.host().as_deref())?;
        let (encrypted, info) = crate::tls::connect(tls.current()?, name, stream, None).await?;
        return Ok(Connection::new(encrypted, peer.with_tls(info)));
    }
    Ok(Connection::new(stream, peer))
}

fn unix(stream: UnixStream) -> (Stream, Peer) {
    let addr = stream.peer_addr().map_or(Addr::Unix(None), Addr::from);
    (stream.into(), Peer::new(addr))
}

async fn tcp(mut addrs: Vec<SocketAddr>, from: Option<IpAddr>) -> io::Result<(Stream, Peer)> {
    if let Some(from) = from {
        addrs.retain(|addr| addr.is_ipv4() == from.is_ipv4());
    }
    let (stream, addr) =
        race(addrs, |addr| async move { Ok((tcp_to(addr, from).await?, addr)) }).await?;
    // Options that the system refuses are not needed.
    drop(set_options(&SockRef::from(&stream))?);
    Ok((stream.into(), Peer::new(addr)))
}

async fn tcp_to(addr: SocketAddr, from: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(from) = from.filter(|from| *from != IpAddr::V4(Ipv4Addr::UNSPECIFIED)) {
        socket.bind((from, 0).into())?;
    }
    socket.connect(addr).await
}

/// As in RFC 8305: the two families alternate, and the next address is tried after 250 ms or as
/// soon as one has failed.
async fn race<T, F: Future<Output = io::Result<T>>>(
    addrs: Vec<SocketAddr>,
    attempt: impl Fn(SocketAddr) -> F,
) -> io::Result<T> {
    let mut waiting = interleaved(addrs).into_iter();
    let mut under_way = FuturesUnordered::new();
    let mut failed =
        io::Error::new(io::ErrorKind::NotFound, "the name has no address that it could connect to");
    loop {
        let more = waiting.next().map(|addr| under_way.push(attempt(addr))).is_some();
        if under_way.is_empty() {
            return Err(failed);
        }
        tokio::select! {
            Some(result) = under_way.next() => match result {
                Ok(connected) => return Ok(connected),
                Err(error) => failed = error,
            },
            () = sleep(STAGGER), if more => {}
        }
    }
}

/// Alternates the addresses of the two families, beginning with the family of the first one; the
/// system has sorted them.
fn interleaved(addrs: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first = addrs.first().is_some_and(SocketAddr::is_ipv6);
    let (a, b): (Vec<_>, Vec<_>) = addrs.into_iter().partition(|addr| addr.is_ipv6() == first);
    let mut a = a.into_iter();
    let mut b = b.into_iter();
    let mut sorted = Vec::with_capacity(a.len() + b.len());
    loop {
        let before = sorted.len();
        sorted.extend(a.next());
        sorted.extend(b.next());
        if sorted.len() == before {
            return sorted;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::Instant;

    use super::*;

    fn addrs<const N: usize>(texts: [&str; N]) -> Vec<SocketAddr> {
        texts.map(|text| text.parse().unwrap()).into()
    }

    #[test]
    fn the_families_take_turns_beginning_with_the_first() {
        let sorted = interleaved(addrs(["[::1]:1", "[::2]:2", "[::3]:3", "192.0.2.1:4"]));
        assert_eq!(sorted.iter().map(SocketAddr::port).collect::<Vec<_>>(), [1, 4, 2, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_address_is_tried_after_250_ms_and_at_once_when_one_has_failed() {
        let addrs = addrs(["[2001:db8::1]:1", "[2001:db8::2]:2", "192.0.2.1:3"]);
        let start = Instant::now();
        // The first one hangs, the one of the other family fails at once, and the third one
        // answers.
        let connected = race(addrs, |addr| async move {
            match addr.port() {
                1 => pending().await,
                3 => Err(io::ErrorKind::ConnectionRefused.into()),
                port => Ok(port),
            }
        });
        assert_eq!((connected.await.unwrap(), start.elapsed()), (2, Duration::from_millis(250)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_to_answer_wins_although_another_was_tried_later() {
        let start = Instant::now();
        let connected = race(addrs(["192.0.2.1:1", "192.0.2.2:2"]), |addr| async move {
            sleep(Duration::from_millis(if addr.port() == 1 { 300 } else { 200 })).await;
            Ok(addr.port())
        });
        assert_eq!((connected.await.unwrap(), start.elapsed()), (1, Duration::from_millis(300)));
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_have_failed_it_is_the_last_error() {
        let failed = race(addrs(["192.0.2.1:1", "192.0.2.2:2"]), |addr| async move {
            Err::<(), _>(if addr.port() == 1 {
                io::ErrorKind::TimedOut.into()
            } else {
                io::ErrorKind::ConnectionRefused.into()
            })
        });
        assert_eq!(failed.await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let none = race(Vec::new(), |_| async { Ok(()) }).await;
        assert_eq!(none.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
