//! A client by hand: tokio-util's `Framed` in a task, requests from a channel, each with the way
//! back. Queued requests are written at once, and answers are handed out in order. It has no
//! deadlines, and does not connect again.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::Poll;

use futures_util::{Sink, SinkExt, Stream, StreamExt};
use ropewalk::{Bytes, Lines};
use ropewalk_peers::Result;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::codec::Framed;

use crate::driver::IN_FLIGHT;

type Request = (Bytes, oneshot::Sender<Bytes>);

#[derive(Clone)]
pub struct Hand(mpsc::Sender<Request>);

impl Hand {
    pub async fn new(addr: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let mut framed = Framed::new(stream, Lines::lf());
        framed.set_backpressure_boundary(64 * 1024);
        let (send, receive) = mpsc::channel(IN_FLIGHT);
        tokio::spawn(serve(framed, receive));
        Ok(Self(send))
    }

    /// Hands a request over; the answer comes later.
    pub async fn start(&self, line: Bytes) -> Result<oneshot::Receiver<Bytes>> {
        let (send, receive) = oneshot::channel();
        self.0.send((line, send)).await?;
        Ok(receive)
    }
}

async fn serve<S, E>(mut framed: S, mut requests: mpsc::Receiver<Request>)
where
    S: Stream<Item = Result<Bytes, E>> + Sink<Bytes> + Unpin,
{
    let mut asked: VecDeque<oneshot::Sender<Bytes>> = VecDeque::with_capacity(IN_FLIGHT);
    loop {
        let answer = poll_fn(|cx| {
            while let Poll::Ready(Ok(())) = framed.poll_ready_unpin(cx) {
                let Poll::Ready(Some((request, back))) = requests.poll_recv(cx) else { break };
                if framed.start_send_unpin(request).is_err() {
                    return Poll::Ready(None);
                }
                asked.push_back(back);
            }
            match framed.poll_next_unpin(cx) {
                Poll::Pending => match framed.poll_flush_unpin(cx) {
                    Poll::Ready(Err(_)) => Poll::Ready(None),
                    _ => Poll::Pending,
                },
                answer => answer,
            }
        });
        let Some(Ok(answer)) = answer.await else { return };
        if let Some(back) = asked.pop_front() {
            drop(back.send(answer));
        }
    }
}
