//! Whole servers of the examples' protocols: what comes back does not depend on how the bytes were
//! cut.

mod dns;
mod memcached;
mod scgi;
mod smtp;

use std::time::Duration;

use ropewalk::memory::{self, MemoryStream};
use ropewalk::server::Serve;
use ropewalk::{CloseReason, Endpoint};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;
use tokio::time::timeout;

/// More virtual time than anything here takes: what lasts longer hangs.
const LONG: Duration = Duration::from_secs(24 * 3600);

/// Longer streams are not given byte by byte.
const BYTEWISE: usize = 200;

thread_local!(static RUNTIME: Runtime = runtime());

fn runtime() -> Runtime {
    let built = Builder::new_current_thread().enable_all().start_paused(true).build();
    built.unwrap_or_else(|error| panic!("no runtime: {error}"))
}

/// A server of one of the protocols, that serves one connection.
trait Protocol {
    fn new() -> Self;

    fn serve(&self, endpoint: Endpoint) -> Serve;

    /// What was heard, without what differs from one run to the next.
    fn stable(heard: Vec<u8>) -> Vec<u8> {
        heard
    }

    /// The part that it has kept of the bytes it received.
    fn kept(&self) -> Vec<Vec<u8>> {
        Vec::new()
    }
}

/// What came of a stream.
#[derive(Debug, PartialEq, Eq)]
pub struct Heard {
    pub bytes: Vec<u8>,
    /// Whether the connection ended properly.
    ended: bool,
    kept: Vec<Vec<u8>>,
}

/// Serves one connection to which these pieces are written, with so many turns of the scheduler
/// between them.
fn hear<P: Protocol>(pieces: &[&[u8]], turns: u8) -> Heard {
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let protocol = P::new();
            let (endpoint, connector) = memory::endpoint();
            let bound = protocol.serve(endpoint).bind().await;
            let Ok(serve) = bound else { panic!("a memory endpoint can be bound") };
            let handle = serve.handle();
            let server = tokio::spawn(serve);
            let Ok(client) = connector.connect().await else { panic!("the server listens") };
            let (read, write) = split(client);
            let both = async { tokio::join!(say(write, pieces, turns), listen(read)) };
            let Ok(((), (bytes, ended))) = timeout(LONG, both).await else {
                panic!("a client waits for ever")
            };
            handle.drain(Duration::from_secs(60));
            let over = timeout(LONG, server).await;
            assert!(matches!(over, Ok(Ok(Ok(())))), "{over:?}");
            let counts = handle.counts();
            assert_eq!((counts.active(), counts.closed(CloseReason::Panic)), (0, 0), "{counts:?}");
            assert_eq!(handle.memory().in_use(), 0);
            Heard { bytes: P::stable(bytes), ended, kept: protocol.kept() }
        })
    })
}

/// A server that has heard enough takes no more, which is not told to anybody.
async fn say(mut write: WriteHalf<MemoryStream>, pieces: &[&[u8]], turns: u8) {
    for piece in pieces {
        if write.write_all(piece).await.is_err() {
            return;
        }
        for _ in 0..turns {
            yield_now().await;
        }
    }
    drop(write.shutdown().await);
}

async fn listen(mut read: ReadHalf<MemoryStream>) -> (Vec<u8>, bool) {
    let mut heard = Vec::new();
    let ended = read.read_to_end(&mut heard).await.is_ok();
    (heard, ended)
}

/// The first three bytes choose the pieces, the others are the stream. Returns what came of that as
/// a whole.
fn compare<P: Protocol>(data: &[u8]) -> Option<Heard> {
    let (&[first, second, third], stream) = data.split_first_chunk()?;
    let sizes =
        [1 + usize::from(first), 1 + usize::from(second & 0x1f), 1 + usize::from(third & 7)];
    let whole = hear::<P>(&[stream], 0);
    let mut pieces = Vec::new();
    let mut rest = stream;
    for size in sizes.into_iter().cycle() {
        let (piece, behind) = rest.split_at(size.min(rest.len()));
        pieces.push(piece);
        rest = behind;
        if rest.is_empty() {
            break;
        }
    }
    same(&whole, &hear::<P>(&pieces, third >> 5), &pieces);
    if stream.len() <= BYTEWISE {
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        same(&whole, &hear::<P>(&bytes, second >> 5), &bytes);
    }
    Some(whole)
}

#[track_caller]
fn same(whole: &Heard, cut: &Heard, pieces: &[&[u8]]) {
    let sizes = || pieces.iter().map(|piece| piece.len()).collect::<Vec<_>>();
    assert_eq!(whole.ended, cut.ended, "another end, cut into {:?}", sizes());
    assert_eq!(whole.kept, cut.kept, "other things are kept, cut into {:?}", sizes());
    // A reset may come before what was written ahead of it is read.
    let alike = whole.bytes == cut.bytes
        || !whole.ended
            && (whole.bytes.starts_with(&cut.bytes) || cut.bytes.starts_with(&whole.bytes));
    let (all, parts) = (whole.bytes.escape_ascii(), cut.bytes.escape_ascii());
    assert!(alike, "as a whole it is answered\n{all}\nand cut into {:?}\n{parts}", sizes());
}

macro_rules! protocols {
    ($($(#[$doc:meta])* $name:ident: $protocol:ty;)*) => {
        $($(#[$doc])*
        pub fn $name(data: &[u8]) -> Option<Heard> {
            compare::<$protocol>(data)
        })*
    };
}

protocols! {
    /// Commands of memcached, and their data.
    memcached: memcached::Memcached;
    /// Commands of SMTP, and mails, which are kept the same.
    smtp: smtp::Smtp;
    /// DNS messages behind their lengths.
    dns: dns::Dns;
    /// A request by SCGI.
    scgi: scgi::Scgi;
}
