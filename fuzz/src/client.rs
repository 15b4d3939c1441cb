//! A client whose server is hostile: it sends what it likes and when it likes, closes, resets,
//! stays silent. The answers that calls are given must be those to their requests, and every call
//! must end.

mod record;

use std::task::{Context, Waker};
use std::time::Duration;

use ropewalk::client::{
    Backoff, Client, ClientError, ClientHandle, ClientState, Part, Pipelined, Tag,
};
use ropewalk::endpoint::Listener;
use ropewalk::{Bytes, Endpoint, memory};
use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinHandle, yield_now};

use self::record::{End, Record, Recorded};

/// More virtual time than any script takes: what lasts longer hangs.
const LONG: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(5);
/// The bounds of an answer of several frames.
const MAX_ANSWER: (usize, u64) = (4, 64);
/// The most calls of a script.
const CALLS: usize = 64;

thread_local!(static RUNTIME: Runtime = runtime());

fn runtime() -> Runtime {
    let built = Builder::new_current_thread().enable_all().start_paused(true).build();
    built.unwrap_or_else(|error| panic!("no runtime: {error}"))
}

/// How answers belong to calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pipelined,
    /// Lines with `+` before the last one of an answer, and with `>` between the answers.
    Many,
    /// The first word is the number of the request.
    Tagged,
}

/// The position of a frame in an answer of several.
fn part(line: &Bytes) -> Part {
    match line.first() {
        Some(b'+') => Part::More,
        Some(b'>') => Part::Push,
        _ => Part::Last,
    }
}

/// The number before a line's first blank.
fn number(line: &[u8]) -> Option<u8> {
    std::str::from_utf8(line).ok()?.split(' ').next()?.parse().ok()
}

/// Few numbers, so that they come again soon.
#[derive(Clone, Default)]
struct Numbers(u8);

impl Tag<String, Bytes> for Numbers {
    type Id = u8;

    fn assign(&mut self, req: &mut String, taken: &dyn Fn(&u8) -> bool) -> u8 {
        while taken(&self.0) {
            self.0 = (self.0 + 1) % 10;
        }
        let id = self.0;
        self.0 = (self.0 + 1) % 10;
        *req = format!("{id} {req}");
        id
    }

    fn finish(&mut self, line: &Bytes) -> Option<u8> {
        // A line without a number answers nothing.
        number(line)
    }
}

type Call = JoinHandle<Result<Vec<Bytes>, ClientError>>;

/// A service of any kind, whose answers are lists.
#[derive(Clone)]
enum Store {
    One(Pipelined<String, Bytes>),
    Many(Pipelined<String, Vec<Bytes>>),
}

impl Store {
    async fn ask(self, req: String) -> Result<Vec<Bytes>, ClientError> {
        match self {
            Self::One(store) => Ok(vec![store.ask(req).await?]),
            Self::Many(store) => store.ask(req).await,
        }
    }
}

/// A script's world.
struct World {
    kind: Kind,
    store: Option<Store>,
    handle: ClientHandle,
    listener: Box<dyn Listener>,
    record: Record,
    /// The server's ends, the newest last.
    ends: Vec<End>,
    /// Each with the name in its request; `None` of one that was dropped.
    calls: Vec<Option<Call>>,
    /// Whether the client may have ended.
    told_to_end: bool,
}

impl World {
    async fn new(options: u8, more: u8) -> Self {
        let kind = [Kind::Pipelined, Kind::Many, Kind::Tagged][usize::from(options % 3)];
        // Few bytes of room make every wait happen.
        let room = if options & 0x80 == 0 { 1 << 16 } else { 1 + usize::from(more & 0x1f) };
        let (endpoint, connector) = memory::endpoint_with_capacity(room);
        let listener = bind(endpoint).await;
        let (codec, record) = Recorded::new();
        let client = Client::new()
            .connect(connector)
            .in_flight(1 + usize::from(more >> 5))
            .call_within(PATIENCE);
        let client =
            client.backoff(Backoff::between(Duration::from_millis(10), Duration::from_secs(1)));
        let client = client.stalled_after(Duration::from_secs(8));
        let made = match kind {
            Kind::Pipelined => {
                client.pipelined(codec).map(|(store, handle)| (Store::One(store), handle))
            }
            Kind::Tagged => client
                .tagged(codec, Numbers::default())
                .map(|(store, handle)| (Store::One(store), handle)),
            Kind::Many => {
                let (frames, bytes) = MAX_ANSWER;
                let client = client.answers(part).max_answer(frames, bytes);
                client.pipelined(codec).map(|(store, handle)| (Store::Many(store), handle))
            }
        };
        let (store, handle) = made.unwrap_or_else(|error| panic!("no client: {error}"));
        Self {
            kind,
            store: Some(store),
            handle,
            listener,
            record,
            ends: Vec::new(),
            calls: Vec::new(),
            told_to_end: false,
        }
    }

    /// Takes one step of the script, and some of the bytes after it.
    async fn step(&mut self, op: u8, script: &mut &[u8]) {
        let n = usize::from(op >> 5);
        match op & 7 {
            0 => self.call(n + 1),
            1 => self.say(take(script, n + 1)),
            2 => self.say(take(script, 8 * n + 9)),
            3 => self.leave(n),
            4 => {
                // The oldest that is there, or one after it.
                if let Some(call) = self
                    .calls
                    .iter_mut()
                    .filter(|call| call.is_some())
                    .nth(n)
                    .and_then(Option::take)
                {
                    call.abort();
                }
            }
            5 => {
                tokio::time::sleep(Duration::from_millis(
                    [1, 20, 250, 1000, 3000, 6000, 11_000, 61_000][n],
                ))
                .await;
            }
            6 => {
                for _ in 0..=n {
                    yield_now().await;
                    self.take_in();
                }
            }
            _ => match n {
                6 => self.store = None,
                7 => self.handle.drain(Duration::from_secs(3)),
                _ => self.say(b"\n"),
            },
        }
        self.told_to_end |= op & 7 == 7 && n >= 6;
        self.take_in();
        // It would if its task panicked.
        assert!(
            self.told_to_end || !matches!(self.handle.state(), ClientState::Ended),
            "the client has ended"
        );
        let counts = self.handle.counts();
        assert_eq!(
            counts.calls(),
            counts.answered() + counts.failed() + counts.dropped() + counts.pending()
        );
    }

    fn call(&mut self, n: usize) {
        let Some(store) = &self.store else { return };
        for _ in 0..n.min(CALLS - self.calls.len().min(CALLS)) {
            let name = name(self.calls.len());
            self.calls.push(Some(tokio::spawn(store.clone().ask(name))));
        }
    }

    fn say(&mut self, bytes: &[u8]) {
        if let Some(end) = self.ends.last_mut() {
            end.say(bytes);
        }
    }

    fn leave(&mut self, how: usize) {
        let Some(end) = self.ends.last_mut() else { return };
        match how {
            0 | 1 => end.close(),
            2 | 3 => end.abort(),
            _ => end.half_close(),
        }
    }

    /// Lets the server accept waiting connections and read what has arrived.
    fn take_in(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        while let std::task::Poll::Ready((stream, _)) = self.listener.poll_accept(&mut cx) {
            self.ends.push(End::new(stream));
        }
        self.ends.iter_mut().for_each(End::read);
    }

    /// The client ends; every call must have, and be right.
    async fn end(mut self) {
        self.store = None;
        self.handle.drain(Duration::from_secs(3));
        let ended = self.handle.ended();
        let mut ended = std::pin::pin!(tokio::time::timeout(LONG, ended));
        loop {
            // The server goes on reading, or a call would wait for room.
            tokio::select! {
                biased;
                ended = &mut ended => break assert!(ended.is_ok(), "the client does not end"),
                () = tokio::time::sleep(Duration::from_millis(100)) => self.take_in(),
            }
        }
        self.take_in();
        let counts = self.handle.counts();
        assert_eq!((counts.pending(), self.handle.in_flight()), (0, 0), "{counts:?}");
        for (i, call) in self.calls.iter_mut().enumerate() {
            let Some(call) = call.take() else { continue };
            match call.await {
                Ok(result) => check(self.kind, &name(i), &result, &self.record, &self.ends),
                Err(error) => panic!("a call panicked: {error}"),
            }
        }
    }
}

/// What no other request contains.
fn name(i: usize) -> String {
    format!("call-{i};")
}

async fn bind(endpoint: Endpoint) -> Box<dyn Listener> {
    endpoint.bind().await.unwrap_or_else(|error| panic!("a memory endpoint can be bound: {error}"))
}

/// Whether a call ended as it may have.
fn check(
    kind: Kind,
    name: &str,
    result: &Result<Vec<Bytes>, ClientError>,
    record: &Record,
    ends: &[End],
) {
    let answer = match result {
        Ok(answer) => answer,
        Err(error) => {
            let arrived = ends.iter().any(|end| end.has_read(name));
            assert!(!(error.is_not_sent() && arrived), "{name} arrived: {error:?}");
            return;
        }
    };
    let (connection, at, request) =
        record.find(name).unwrap_or_else(|| panic!("{name} was never encoded"));
    let sent =
        &ends.get(connection).unwrap_or_else(|| panic!("{name}: no connection {connection}")).said;
    let lines =
        sent.split_inclusive(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"));
    match kind {
        Kind::Pipelined => assert_eq!(lines.into_iter().nth(at), Some(&answer[0][..]), "{name}"),
        Kind::Tagged => {
            assert_eq!(number(&answer[0]), number(request.as_bytes()), "{name}");
            assert!(
                lines.into_iter().any(|line| line == answer[0]),
                "{name}: {answer:?} was never said"
            );
        }
        Kind::Many => {
            let lines: Vec<Bytes> =
                lines.map(Bytes::copy_from_slice).filter(|line| part(line) != Part::Push).collect();
            let answers = lines.split_inclusive(|line| part(line) == Part::Last);
            assert_eq!(answers.into_iter().nth(at), Some(&answer[..]), "{name}");
            assert!(answer.len() <= MAX_ANSWER.0, "{name}: {} frames", answer.len());
        }
    }
}

/// The next bytes of a script, as many as there are.
fn take<'a>(script: &mut &'a [u8], n: usize) -> &'a [u8] {
    let (taken, rest) = script.split_at(n.min(script.len()));
    *script = rest;
    taken
}

/// A script of callers and of a server that keeps to no protocol.
pub fn client(data: &[u8]) {
    let Some((&[options, more], mut script)) = data.split_first_chunk() else { return };
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let mut world = World::new(options, more).await;
            while let Some((&op, rest)) = script.split_first() {
                script = rest;
                world.step(op, &mut script).await;
            }
            world.end().await;
        });
    });
}
