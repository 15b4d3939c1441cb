//! A whole server on a memory endpoint, and clients that follow a script.

mod clients;

use std::time::Duration;

use bytes::Bytes;
use ropewalk::codec::CodecError;
use ropewalk::memory::{self, Connector};
use ropewalk::server::Serve;
use ropewalk::{CloseReason, Error, Handle, Result, Server, Session};
use ropewalk::{framed, reply_fn, service_fn, session as session_leaf};
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;
use tokio_util::codec::{Decoder, Encoder};

use self::clients::{Client, Expected};
use super::drive::Event;
use super::input::Input;
use super::{lines, netstring};

/// More virtual time than any script takes: what lasts longer hangs.
const LONG: Duration = Duration::from_secs(3600);

/// The most clients of a script.
const CLIENTS: usize = 4;

thread_local!(static RUNTIME: Runtime = runtime());

fn runtime() -> Runtime {
    let built = Builder::new_current_thread().enable_all().start_paused(true).build();
    built.unwrap_or_else(|error| panic!("no runtime: {error}"))
}

/// The codecs served here.
trait Codec:
    Decoder<Item = Bytes, Error = CodecError> + Encoder<Bytes, Error = CodecError> + Clone + Send
{
}

impl<
    C: Decoder<Item = Bytes, Error = CodecError> + Encoder<Bytes, Error = CodecError> + Clone + Send,
> Codec for C
{
}

/// The answer to an error.
const ERROR: &[u8] = b"w";

/// The answer to a frame: of its length, and of bytes no delimiter has.
fn answer(frame: &[u8]) -> Bytes {
    frame.iter().map(|byte| b'x' + byte % 3).collect()
}

/// Answers frame by frame; errors that can be gone on from, too.
async fn talk<C: Codec>(mut s: Session<C>, at_once: bool) -> Result {
    loop {
        let reply = match s.next().await {
            Ok(Some(frame)) => answer(&frame),
            Ok(None) => return Ok(()),
            Err(error) if error.is_recoverable() => Bytes::from_static(ERROR),
            Err(error) => return Err(error),
        };
        if at_once { s.send(reply).await? } else { s.feed(reply)? }
    }
}

/// A leaf of the kind chosen, and whether it answers fatal errors too.
fn serve<C>(codec: C, kind: u8, server: Server) -> (Serve, bool)
where
    C: Codec + Sync + Unpin + 'static,
{
    // A frame that waits for its end while the script sleeps runs into its deadline, which is not
    // told to the peer here.
    let on_error =
        |error: &Error| error.downcast_ref::<CodecError>().map(|_| Bytes::from_static(ERROR));
    match kind {
        0 => (server.serve(session_leaf(codec, |s| talk(s, false))), false),
        1 => (server.serve(session_leaf(codec, |s| talk(s, true))), false),
        2 => (
            server.serve(framed(codec, reply_fn(|frame: Bytes| answer(&frame))).on_error(on_error)),
            true,
        ),
        _ => {
            let slow = service_fn(async |frame: Bytes| {
                // Later calls may be done before earlier ones.
                for _ in 0..frame.first().map_or(0, |byte| byte % 4) {
                    yield_now().await;
                }
                Ok(answer(&frame))
            });
            (server.serve(framed(codec, slow).concurrent(3).on_error(on_error)), true)
        }
    }
}

/// A script's world.
struct World {
    handle: Handle,
    connector: Connector,
    clients: Vec<Client>,
    connected: u64,
    /// Whether something happened after which not all answers need arrive: a drain, or time that
    /// passed.
    disturbed: bool,
}

impl World {
    /// Takes one step of the script, and some of the bytes after it.
    async fn step(&mut self, op: u8, script: &mut &[u8]) {
        let n = usize::from(op >> 5);
        if op & 7 == 0 && self.clients.len() < CLIENTS {
            // Refused once the server drains.
            if let Ok(stream) = self.connector.try_connect() {
                self.clients.push(Client::new(stream));
                self.connected += 1;
            }
        }
        let which = usize::from(op >> 3 & 3);
        if op & 7 == 7 {
            self.rarely(n, which).await;
        }
        match (op & 7, self.clients.get_mut(which)) {
            (1, Some(client)) => client.write(take(script, n + 1)),
            (2, Some(client)) => client.write(take(script, 8 * n + 9)),
            (3, Some(client)) => client.half_close(),
            (4, Some(client)) => client.abort(),
            (5, Some(client)) => client.read_now(8 * n + 1),
            (6, _) => {
                for _ in 0..=n {
                    yield_now().await;
                }
            }
            _ => {}
        }
        yield_now().await;
        let counts = self.handle.counts();
        assert_eq!(counts.accepted(), counts.active() + counts.closed_in_all(), "{counts:?}");
        assert!(counts.accepted() <= self.connected, "{counts:?} of {}", self.connected);
    }

    async fn rarely(&mut self, what: usize, which: usize) {
        let sleep = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
        match what {
            0 => self.clients.get_mut(which).map_or((), Client::close),
            1 => self.handle.drain(Duration::from_secs(5)),
            2 => self.handle.stop(),
            3 => sleep(1).await,
            4 => sleep(40).await,
            5 => self.handle.set_max_connections(1),
            6 => self.handle.set_max_connections(CLIENTS),
            _ => {}
        }
        self.disturbed |= matches!(what, 1..=4);
    }

    /// Every client ends its stream and reads the rest; then the server drains, and its books must
    /// balance.
    async fn end(mut self, server: tokio::task::JoinHandle<Result>, expected: &Expected<'_>) {
        self.clients.iter_mut().for_each(Client::half_close);
        for client in &mut self.clients {
            let ended = tokio::time::timeout(LONG, client.read_rest()).await;
            assert!(ended.is_ok(), "a client waits for ever");
            client.check(expected, !self.disturbed);
        }
        self.handle.drain(Duration::from_secs(60));
        let ended = tokio::time::timeout(LONG, server).await;
        assert!(matches!(ended, Ok(Ok(Ok(())))), "{ended:?}");
        let counts = self.handle.counts();
        assert_eq!((counts.active(), counts.accepted()), (0, counts.closed_in_all()), "{counts:?}");
        assert_eq!(counts.closed(CloseReason::Panic), 0, "{counts:?}");
        assert!(
            counts.accepted() == self.connected || self.disturbed || !self.all_waited(),
            "{counts:?}"
        );
    }

    /// Whether no client left before it was accepted.
    fn all_waited(&self) -> bool {
        self.clients.iter().all(Client::waited)
    }
}

/// The next bytes of a script, as many as there are.
fn take<'a>(script: &mut &'a [u8], n: usize) -> &'a [u8] {
    let (taken, rest) = script.split_at(n.min(script.len()));
    *script = rest;
    taken
}

async fn run<C>(codec: C, input: &Input<'_>, decode: &dyn Fn(&[u8]) -> Vec<Event>, end: &[u8])
where
    C: Codec + Sync + Unpin + 'static,
{
    // Few bytes of room make every wait happen.
    let room = match input.more >> 2 & 3 {
        0 => 1 << 16,
        shift => usize::from(input.more >> 4) + (1 << shift),
    };
    let (endpoint, connector) = memory::endpoint_with_capacity(room);
    let (serve, answers_fatal) =
        serve(codec, input.more & 3, Server::new().max_connections(CLIENTS).listen(endpoint));
    let expected = Expected { decode, answers_fatal, delimiter: end };
    let bound = serve.bind().await;
    let Ok(serve) = bound else { panic!("a memory endpoint can be bound") };
    let handle = serve.handle();
    let server = tokio::spawn(serve);
    let mut world =
        World { handle, connector, clients: Vec::new(), connected: 0, disturbed: false };
    let mut script = input.stream;
    while let Some((&op, rest)) = script.split_first() {
        script = rest;
        world.step(op, &mut script).await;
    }
    world.end(server, &expected).await;
}

/// A script of clients against each leaf: the books balance, and answers are those to the frames
/// sent, in order.
pub fn session(data: &[u8]) {
    let Some(input) = Input::new(data) else { return };
    RUNTIME.with(|runtime| {
        if input.options & 0xe0 == 0xe0 {
            let max = input.max().clamp(1, 40);
            let codec = ropewalk::Netstring::new().max(max);
            runtime.block_on(run(codec, &input, &|stream| netstring::decode(max, stream), b""));
        } else {
            let rules = lines::Rules::new(&input).at_least(1);
            let codec = rules.codec(&input);
            runtime.block_on(run(codec, &input, &|stream| rules.decode(stream), rules.delimiter()));
        }
    });
}
