//! A server that has no descriptor left.

use std::task::{Context, Poll};
use std::time::Duration;

use ropewalk_middleware::{Addr, CloseReason, Peer, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::room::open;
use crate::listener::Listener;
use crate::listener::preamble::PreambleDrop;
use crate::memory;
use crate::{Bytes, Endpoint, RawBytes, Server, framed, reply_fn};

/// A listener that lacks a descriptor when the test says so.
struct Starved {
    told: mpsc::UnboundedReceiver<()>,
    lacks: bool,
}

impl Listener for Starved {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<(Stream, Peer)> {
        while let Poll::Ready(Some(())) = self.told.poll_recv(cx) {
            self.lacks = true;
        }
        Poll::Pending
    }

    fn lacks_descriptors(&mut self) -> bool {
        std::mem::take(&mut self.lacks)
    }

    fn local_addr(&self) -> Addr {
        Addr::Memory
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_whose_one_listener_lacks_a_descriptor_closes_a_silent_connection_of_another() {
    let (tell, told) = mpsc::unbounded_channel();
    let (endpoint, connector) = memory::endpoint();
    let starved = Endpoint::from_listener(Starved { told, lacks: false });
    let server = Server::new().listen(endpoint.proxied([])).listen(starved);
    let server =
        server.serve(framed(RawBytes, reply_fn(|bytes: Bytes| bytes))).bind().await.unwrap();
    let handle = server.handle();
    tokio::spawn(server);
    let mut clients = Vec::new();
    for bytes in [&b"PROXY "[..], b"", b""] {
        let mut client = connector.connect().await.unwrap();
        client.write_all(bytes).await.unwrap();
        clients.push(client);
    }
    sleep(Duration::from_millis(1)).await;
    for left in [[true, false, true], [true, false, false], [true, false, false]] {
        tell.send(()).unwrap();
        sleep(Duration::from_millis(1)).await;
        assert_eq!(open(&mut clients).await, left);
    }
    assert_eq!(handle.preambles().dropped_for(PreambleDrop::Descriptors), 2);
}

#[tokio::test(start_paused = true)]
async fn a_server_without_descriptors_and_silent_preambles_closes_a_connection_that_may_make_room()
{
    let (tell, told) = mpsc::unbounded_channel();
    let (endpoint, connector) = memory::endpoint();
    let starved = Endpoint::from_listener(Starved { told, lacks: false });
    let server = Server::new().listen(endpoint).listen(starved);
    let server =
        server.serve(framed(RawBytes, reply_fn(|bytes: Bytes| bytes))).bind().await.unwrap();
    let handle = server.handle();
    tokio::spawn(server);
    let mut clients = vec![connector.connect().await.unwrap(), connector.connect().await.unwrap()];
    clients[0].write_all(b"x").await.unwrap();
    clients[0].read_u8().await.unwrap();
    for (after, left) in
        [(1, [true, true]), (5, [true, false]), (1, [true, false]), (60, [false, false])]
    {
        sleep(Duration::from_secs(after)).await;
        tell.send(()).unwrap();
        sleep(Duration::from_millis(1)).await;
        assert_eq!(open(&mut clients).await, left, "{after} s later");
    }
    assert_eq!(handle.counts().closed(CloseReason::MadeRoomSilent), 1);
    assert_eq!(handle.counts().closed(CloseReason::MadeRoomIdle), 1);
}
