//! The server's end of a client's connections, in the hands of a test, and calls of a client.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // each test file uses its part of it

use std::future::poll_fn;

use ropewalk::client::{Call, ClientHandle, Pipelined};
use ropewalk::connection::Stream;
use ropewalk::endpoint::Listener;
use ropewalk::memory::{self, Connector};
use ropewalk::{Bytes, ConnectionService, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::{Service, ServiceExt};

#[allow(unused_imports)] // as above
pub(crate) use crate::harness::{LONG, settle, soon};

/// What most tests call: lines.
pub type Store = Pipelined<String, Bytes>;

/// The listener of a test, which accepts when the test says so.
pub struct Ends(Box<dyn Listener>);

/// What connects, and where it comes in. Each direction of a connection holds so many bytes.
pub async fn ends(bytes: usize) -> (Connector, Ends) {
    let (endpoint, connector) = memory::endpoint_with_capacity(bytes);
    (connector, Ends(endpoint.bind().await.unwrap()))
}

/// What connects to an endpoint of which nobody knows.
pub fn nobody() -> Connector {
    memory::endpoint().1
}

impl Ends {
    /// The next connection.
    pub async fn accept(&mut self) -> End {
        End(soon(poll_fn(|cx| self.0.poll_accept(cx))).await.0)
    }
}

/// The server's end of a connection.
pub struct End(pub Stream);

impl End {
    /// Reads just these bytes.
    pub async fn expect(&mut self, text: &str) {
        let mut bytes = vec![0; text.len()];
        soon(self.0.read_exact(&mut bytes)).await.unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), text);
    }

    pub async fn say(&mut self, text: &str) {
        soon(self.0.write_all(text.as_bytes())).await.unwrap();
    }

    /// The client has closed its half.
    pub async fn expect_end(&mut self) {
        assert_eq!(soon(self.0.read(&mut [0])).await.unwrap(), 0);
    }
}

/// A server in a task of its own.
pub fn serve(leaf: impl ConnectionService) -> (Connector, ropewalk::Handle) {
    let (endpoint, connector) = memory::endpoint();
    let server = Server::new().listen(endpoint).serve(leaf);
    let handle = server.handle();
    tokio::spawn(server.into_future());
    (connector, handle)
}

/// A call of a clone of its own that was ready.
pub async fn call<Ans>(store: &Pipelined<String, Ans>, req: &str) -> Call<String, Ans> {
    let mut store = store.clone();
    soon(store.ready()).await.unwrap().call(req.to_owned())
}

/// The books of a client that has ended.
pub fn audit(handle: &ClientHandle) {
    let counts = handle.counts();
    assert_eq!(counts.pending(), 0, "{counts:?}");
    assert_eq!(handle.in_flight(), 0, "a place is taken still: {counts:?}");
}
