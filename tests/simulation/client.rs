//! A client between callers that come and go and servers that cut, reset, delay, stall and answer
//! in pieces: 500 seeds, each a run under simulated time. The servers keep a record of all that
//! they have seen.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ropewalk::client::{Backoff, Client, ClientError, ClientHandle, Pipelined, Tag};
use ropewalk::testing::{Simulation, World};
use ropewalk::{Bytes, Lines, Server, framed, service_fn};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep, timeout};
use tower::{Service, ServiceExt};

/// The requests that a server has seen, by their names. No two requests have the same name.
type Record = Arc<Mutex<HashMap<String, u32>>>;
type Store = Pipelined<String, Bytes>;

const PATIENCE: Duration = Duration::from_secs(5);

/// How a call ended, for the checker.
#[derive(Debug)]
enum Ended {
    Answered(Bytes),
    Failed(ClientError),
    /// Its caller went away.
    Dropped,
}

/// A server under the faults of this world, which is slow now and then.
fn serve(
    world: &World,
    record: &Record,
    unordered: bool,
) -> (ropewalk::memory::Connector, ropewalk::Handle, Served) {
    let (endpoint, connector) = world.endpoint();
    let (record, dice) = (Arc::clone(record), world.clone());
    let service = service_fn(move |line: Bytes| {
        let name = String::from_utf8_lossy(&line).into_owned();
        *record.lock().unwrap().entry(name.clone()).or_default() += 1;
        let wait = dice.happens(10).then(|| Duration::from_millis(dice.roll(8000)));
        async move {
            if let Some(wait) = wait {
                sleep(wait).await;
            }
            Ok::<_, ropewalk::Error>(Bytes::from(name))
        }
    });
    let server = Server::new().listen(endpoint);
    let leaf = framed(Lines::lf(), service);
    let serve = if unordered { server.serve(leaf.unordered(8)) } else { server.serve(leaf) };
    let handle = serve.handle();
    (connector, handle, tokio::spawn(serve.into_future()))
}

type Served = tokio::task::JoinHandle<ropewalk::Result>;

/// The first word of a line is its tag.
#[derive(Clone, Default)]
struct FirstWord(u32);

impl Tag<String, Bytes> for FirstWord {
    type Id = u32;

    fn assign(&mut self, req: &mut String, taken: &dyn Fn(&u32) -> bool) -> u32 {
        while taken(&self.0) {
            self.0 += 1;
        }
        let id = self.0;
        // Few of them, so that they come again soon.
        self.0 = (self.0 + 1) % 16;
        *req = format!("{id} {req}");
        id
    }

    fn finish(&mut self, line: &Bytes) -> Option<u32> {
        std::str::from_utf8(line).ok()?.split(' ').next()?.parse().ok()
    }
}

/// One call, by `ask` or by tower, whose caller may lose patience at any moment.
async fn one_call(world: World, store: Store, name: String) -> (String, Ended) {
    let gives_up = world.happens(25).then(|| Duration::from_millis(world.roll(4000)));
    let by_tower = world.happens(50);
    let request = name.clone();
    let asked = async {
        if by_tower {
            let mut store = store.clone();
            store.ready().await.unwrap().call(request).await
        } else {
            store.ask(request).await
        }
    };
    let began = Instant::now();
    let result = match gives_up {
        Some(patience) => timeout(patience, asked).await,
        None => Ok(asked.await),
    };
    // A moment more, as the runtime's clock counts in milliseconds.
    assert!(
        began.elapsed() <= PATIENCE + Duration::from_millis(50),
        "{name} took {:?}",
        began.elapsed()
    );
    let ended = match result {
        Ok(Ok(answer)) => Ended::Answered(answer),
        Ok(Err(error)) => Ended::Failed(error),
        Err(_) => Ended::Dropped,
    };
    (name, ended)
}

/// Calls in bursts and one by one, of which some are dropped before they were ever polled.
async fn callers(world: &World, store: &Store) -> Vec<(String, Ended)> {
    let mut calls = JoinSet::new();
    for burst in 0..1 + world.roll(12) {
        for i in 0..1 + world.roll(20) {
            let name = format!(
                "call-{burst}-{i}{}",
                "x".repeat(usize::try_from(world.roll(200)).unwrap())
            );
            calls.spawn_local(one_call(world.clone(), store.clone(), name));
        }
        if world.happens(10) {
            // One that is readied and never calls.
            let mut idle = store.clone();
            drop(timeout(Duration::from_secs(1), idle.ready()).await);
        }
        match world.roll(4) {
            0 => yield_now().await,
            1 => sleep(Duration::from_millis(world.roll(10))).await,
            _ => sleep(Duration::from_millis(world.roll(3000))).await,
        }
    }
    calls.join_all().await
}

/// What must hold of every call.
fn check(record: &Record, ended: &[(String, Ended)], tagged: bool) {
    let record = record.lock().unwrap();
    let name_of = |line: &str| {
        if tagged { line.split_once(' ').unwrap().1.to_owned() } else { line.to_owned() }
    };
    let mut seen: HashMap<String, u32> = HashMap::new();
    for (line, times) in record.iter() {
        // A line that was cut short is not a request that was seen whole; no name is the beginning of
        // another one.
        if !tagged || line.contains(' ') {
            *seen.entry(name_of(line)).or_default() += times;
        }
    }
    let mut names = HashSet::new();
    for (name, ended) in ended {
        assert!(names.insert(name), "{name} ended twice");
        let times = seen.get(name).copied().unwrap_or(0);
        assert!(times <= 1, "{name} was sent {times} times");
        match ended {
            Ended::Answered(answer) => {
                let answer = name_of(std::str::from_utf8(answer).unwrap());
                assert_eq!((&answer, times), (name, 1), "the answer of another call");
            }
            Ended::Failed(error) if error.is_not_sent() => {
                assert_eq!(times, 0, "{name} was seen, and the caller was told: {error:?}");
            }
            Ended::Failed(_) | Ended::Dropped => {}
        }
    }
}

/// Ends a client in one of its ways, and checks its books.
async fn end(world: &World, store: Store, handle: ClientHandle) {
    if world.happens(50) {
        handle.drain(Duration::from_secs(world.roll(20)));
    }
    drop(store);
    timeout(Duration::from_secs(600), handle.ended()).await.expect("the client does not end");
    let counts = handle.counts();
    assert_eq!((counts.pending(), handle.in_flight()), (0, 0), "something is left: {counts:?}");
}

/// Without jitter, so that a seed is the same run each time.
fn backoff(world: &World) -> Backoff {
    let wait = Duration::from_millis(50 + world.roll(1000));
    Backoff::between(wait, wait)
}

async fn scenario(world: World, tagged: bool) {
    let record = Record::default();
    let (connector, server, served) = serve(&world, &record, tagged);
    let client = Client::new()
        .connect(connector)
        .in_flight(usize::try_from(1 + world.roll(12)).unwrap())
        .call_within(PATIENCE)
        .stalled_after(Duration::from_secs(10))
        .backoff(backoff(&world));
    let (store, handle) = if tagged {
        client.tagged(Lines::lf(), FirstWord::default()).unwrap()
    } else {
        client.pipelined(Lines::lf()).unwrap()
    };
    let drains = world.happens(10).then(|| Duration::from_millis(world.roll(20_000)));
    let drained = handle.clone();
    let drain = tokio::spawn(async move {
        if let Some(wait) = drains {
            sleep(wait).await;
            drained.drain(Duration::from_secs(3));
        }
    });
    let local = Rc::new(tokio::task::LocalSet::new());
    let ended = local.run_until(callers(&world, &store)).await;
    drain.abort();
    end(&world, store, handle).await;
    server.drain(Duration::from_secs(300));
    served.await.unwrap().unwrap();
    world.audit(&server);
    check(&record, &ended, tagged);
    world.note(ended.len());
}

#[test]
fn every_answer_is_its_calls_and_unsent_requests_were_not_seen_under_500_seeds() {
    Simulation::new().seeds(0..500, async |world| scenario(world, false).await);
}

#[test]
fn the_same_of_tagged_answers_under_300_seeds() {
    Simulation::new().seeds(0..300, async |world| scenario(world, true).await);
}

#[test]
fn a_server_that_accepts_and_resets_is_not_hammered() {
    let faults = ropewalk::testing::Faults::none().resets(100);
    Simulation::new().faults(faults).seeds(0..20, async |world| {
        let (connector, _server, _served) = serve(&world, &Record::default(), false);
        let client = Client::new().connect(connector).call_within(PATIENCE);
        let client =
            client.backoff(Backoff::between(Duration::from_millis(100), Duration::from_secs(30)));
        let (store, handle) = client.pipelined::<String, _>(Lines::lf()).unwrap();
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(600) {
            // Long enough to reach the byte at which the connection breaks.
            drop(store.ask("x".repeat(4000)).await);
        }
        let attempts = handle.counts().attempts();
        assert!(attempts < 150, "{attempts} attempts in ten minutes");
    });
}

#[test]
fn a_seed_is_the_same_run_each_time() {
    for (seed, tagged) in [(7, false), (8, true), (9, false), (10, true)] {
        let run = || Simulation::new().run(seed, async |world| scenario(world, tagged).await);
        assert_eq!(run(), run());
    }
}

#[test]
fn connections_that_are_replaced_for_their_age_fail_no_call_under_100_seeds() {
    let faults = ropewalk::testing::Faults::none().pieces(60).delays(40);
    Simulation::new().faults(faults).seeds(0..100, async |world| {
        let record = Record::default();
        let (connector, _server, _served) = serve(&world, &record, false);
        let client =
            Client::new().connect(connector).max_age(Duration::from_secs(1 + world.roll(10)));
        let (store, handle) = client
            .call_within(Duration::from_secs(600))
            .pipelined::<String, _>(Lines::lf())
            .unwrap();
        for i in 0..40 {
            let (a, b) = (format!("a{i}"), format!("b{i}"));
            let (answer, other) = tokio::join!(store.ask(a.clone()), store.ask(b.clone()));
            assert_eq!((answer.unwrap(), other.unwrap()), (a.into(), b.into()));
            sleep(Duration::from_millis(world.roll(1000))).await;
        }
        assert!(handle.counts().connections() > 1);
        assert!(record.lock().unwrap().values().all(|times| *times == 1));
    });
}
