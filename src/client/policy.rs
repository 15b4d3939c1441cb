//! Traits that tower's layers require of a client (feature `tower`).

use std::future::{Ready, ready};

use tower::load::Load;
use tower::retry::Policy;

use super::error::ClientError;
use super::service::Pipelined;

impl<Req, Ans> Load for Pipelined<Req, Ans> {
    /// [`Pipelined::in_flight`]: tower's `Balance` prefers clients that are connected, and among them those with few
    /// calls.
    type Metric = usize;

    fn load(&self) -> usize {
        self.in_flight()
    }
}

/// A policy for tower's `Retry`: a call that fails with [`ClientError::NotSent`], or with
/// [`TimedOut`](ClientError::TimedOut) before it was sent, is tried again, up to a number of times.
/// A request that may have been sent is never sent again.
///
/// A codec takes a request by value, so a client can't send it again by itself; `Retry` clones it
/// before.
///
/// ```
/// use ropewalk::client::{Client, NotSent};
/// use ropewalk::{Bytes, Lines, Server, framed, memory, reply_fn};
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> ropewalk::Result {
/// let (endpoint, connector) = memory::endpoint();
/// tokio::spawn(Server::new().listen(endpoint).serve(framed(Lines::lf(), reply_fn(|line: Bytes| line))).into_future());
///
/// let (echo, _handle) = Client::new().connect(connector).pipelined::<String, _>(Lines::lf())?;
/// let echo = ServiceBuilder::new().retry(NotSent::once()).service(echo);
/// assert_eq!(echo.oneshot("hello".into()).await?, "hello");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct NotSent {
    left: u32,
}

impl NotSent {
    /// One more attempt.
    pub fn once() -> Self {
        Self::times(1)
    }

    /// This many more attempts.
    pub fn times(attempts: u32) -> Self {
        Self { left: attempts }
    }
}

impl<Req: Clone, Ans> Policy<Req, Ans, ClientError> for NotSent {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut Req, result: &mut Result<Ans, ClientError>) -> Option<Ready<()>> {
        // `Draining`, `Unavailable`, `Codec` and `NotReady` would fail again.
        let again =
            matches!(result, Err(ClientError::NotSent(_) | ClientError::TimedOut { sent: false }));
        if !again || self.left == 0 {
            return None;
        }
        self.left -= 1;
        Some(ready(()))
    }

    fn clone_request(&mut self, req: &Req) -> Option<Req> {
        (self.left > 0).then(|| req.clone())
    }
}
