//! A server that never stops talking: other tasks have their turns, and calls their deadlines.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use ropewalk::client::{Client, ClientError, ClientHandle, Part, Pipelined};
use ropewalk::client::{Dial, Dialing};
use ropewalk::connection::Stream;
use ropewalk::{Addr, Bytes, Lines, Peer, Remote};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

/// A connection on which there is always more to read, at most so many messages at once, and that
/// takes whatever is written.
#[derive(Clone, Copy)]
struct Flood(usize);

impl AsyncRead for Flood {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        for _ in 0..self.0.min(buf.remaining() / 2) {
            buf.put_slice(b">\n");
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Flood {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Dial for Flood {
    fn dial(&self) -> Dialing<'_> {
        let flood = *self;
        Box::pin(async move { Ok((Stream::from_io(flood), Peer::new(Addr::Memory))) })
    }

    fn addr(&self) -> Addr {
        Addr::Memory
    }
}

/// A client of it, and the count of the messages that answer nothing.
fn client(
    flood: Flood,
    call_within: Duration,
) -> (Pipelined<String, Vec<Bytes>>, ClientHandle, Arc<AtomicUsize>) {
    let pushes = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&pushes);
    let client = Client::new().connect(Remote::dial(flood)).call_within(call_within);
    let client =
        client.answers(|line: &Bytes| if line.starts_with(b">") { Part::Push } else { Part::Last });
    let client = client.on_push(move |_: Bytes| {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    let (store, handle) = client.pipelined(Lines::lf()).unwrap();
    (store, handle, pushes)
}

/// Waits for one turn of the scheduler. Tokio's own `yield_now` waits for a round of the driver,
/// which is many turns.
async fn turn() {
    let mut had = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut had, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[tokio::test]
async fn other_tasks_have_their_turn_after_256_messages() {
    let (_store, handle, pushes) = client(Flood(usize::MAX), Duration::from_secs(30));
    handle.connected().await.unwrap();
    // In a task: the future that a runtime blocks on has fewer turns than tasks have.
    let other = tokio::spawn(async move {
        let begin = pushes.load(Ordering::Relaxed);
        for _ in 0..1000 {
            let before = pushes.load(Ordering::Relaxed);
            turn().await;
            let in_between = pushes.load(Ordering::Relaxed) - before;
            // A turn of this task may lie between two of the client's.
            assert!(in_between <= 2 * 256, "{in_between} messages");
        }
        assert!(pushes.load(Ordering::Relaxed) > begin + 10_000, "it does not read");
    });
    other.await.unwrap();
}

// Not under paused time: that stands still while there is something to do, and here there always
// is.
#[tokio::test]
async fn a_call_is_late_and_a_drain_ends_though_messages_never_stop() {
    for flood in [Flood(1), Flood(usize::MAX)] {
        let (store, handle, _pushes) = client(flood, Duration::from_millis(100));
        let late =
            timeout(Duration::from_secs(20), store.ask("x")).await.expect("it is never late");
        assert!(matches!(late, Err(ClientError::TimedOut { sent: true })), "{late:?}");
        handle.drain(Duration::from_millis(100));
        timeout(Duration::from_secs(20), handle.ended()).await.expect("it never ends");
    }
}
