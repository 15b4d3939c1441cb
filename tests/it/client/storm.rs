//! A thousand clients whose server is gone for ten seconds: how often they try, what that costs,
//! and when they are back.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use ropewalk::client::{Backoff, Client, ClientHandle};
use ropewalk::client::{Dial, Dialing};
use ropewalk::memory::{self, Connector};
use ropewalk::{Addr, Bytes, Lines, Remote, Server, framed, reply_fn};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::called::{Store, soon};

const CLIENTS: usize = 1000;
const GONE: Duration = Duration::from_secs(10);

/// A server that is there or refuses, and the time of each attempt to connect to it.
#[derive(Clone, Default)]
struct Place(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    up: Option<(Connector, JoinHandle<ropewalk::Result>)>,
    attempts: Vec<Instant>,
}

impl Place {
    fn start(&self) {
        let (endpoint, connector) = memory::endpoint();
        let server = Server::new().max_connections(2 * CLIENTS).listen(endpoint);
        let serve = server.serve(framed(Lines::lf(), reply_fn(|line: Bytes| line)));
        self.0.lock().unwrap().up = Some((connector, tokio::spawn(serve.into_future())));
    }

    /// Its process is gone, and with it all connections.
    fn kill(&self) {
        let (_, server) = self.0.lock().unwrap().up.take().unwrap();
        server.abort();
    }

    /// The attempts so far, which are forgotten.
    fn attempts(&self) -> Vec<Instant> {
        std::mem::take(&mut self.0.lock().unwrap().attempts)
    }
}

impl Dial for Place {
    fn dial(&self) -> Dialing<'_> {
        let connector = {
            let mut seen = self.0.lock().unwrap();
            seen.attempts.push(Instant::now());
            seen.up.as_ref().map(|(connector, _)| connector.clone())
        };
        Box::pin(async move {
            match connector {
                Some(connector) => connector.dial().await,
                None => Err(io::ErrorKind::ConnectionRefused.into()),
            }
        })
    }

    fn addr(&self) -> Addr {
        Addr::Memory
    }
}

fn clients(place: &Place, backoff: Backoff) -> Vec<(Store, ClientHandle)> {
    let client = || {
        let client = Client::new().connect(Remote::dial(place.clone())).backoff(backoff);
        // Nobody is to lose patience here.
        client.call_within(Duration::from_secs(300)).pipelined(Lines::lf()).unwrap()
    };
    (0..CLIENTS).map(|_| client()).collect()
}

/// The most attempts within any span of this length.
fn most_within(attempts: &[Instant], span: Duration) -> usize {
    let until = |first: &Instant| attempts.partition_point(|attempt| *attempt < *first + span);
    attempts.iter().enumerate().map(|(i, first)| until(first) - i).max().unwrap_or(0)
}

/// The CPU time of this thread so far.
fn cpu() -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(told.split(' ').next().unwrap().parse().unwrap())
}

/// The server goes, and comes back; returns the attempts meanwhile, and what they cost.
async fn outage(place: &Place, clients: &[(Store, ClientHandle)]) -> (Vec<Instant>, Duration) {
    let gone = Instant::now();
    place.attempts();
    place.kill();
    // When all clients have noticed, each has a caller that waits.
    sleep(Duration::from_millis(10)).await;
    let calls = clients.iter().map(|(store, _)| {
        let store = store.clone();
        tokio::spawn(async move { store.ask("x").await })
    });
    let calls: Vec<_> = calls.collect();
    let before = cpu();
    sleep_until(gone + GONE).await;
    let (attempts, cost) = (place.attempts(), cpu() - before);
    place.start();
    for answer in soon(join_all(calls)).await {
        assert_eq!(answer.unwrap().unwrap(), "x");
    }
    (attempts, cost)
}

// One thread, under paused time: the clock of the thread counts the work of all clients.
#[tokio::test(start_paused = true)]
async fn a_thousand_clients_try_seldom_and_apart_and_are_back_within_the_bound_of_their_back_off() {
    for most in [Duration::from_secs(2), Duration::from_secs(30)] {
        let place = Place::default();
        place.start();
        let clients = clients(&place, Backoff::between(Duration::from_millis(100), most));
        join_all(clients.iter().map(|(_, handle)| soon(handle.connected()))).await;
        // It has shown by then that it works.
        sleep(Duration::from_secs(11)).await;
        let (attempts, cost) = outage(&place, &clients).await;
        let each = |attempts: usize| attempts as f64 / CLIENTS as f64;
        let back = place.attempts().last().copied().unwrap();
        let (all, second, moment) = (
            each(attempts.len()),
            each(most_within(&attempts, Duration::from_secs(1))),
            each(most_within(&attempts, Duration::from_millis(10))),
        );
        let waited = back - (attempts[0] - Duration::from_millis(100) + GONE).min(back);
        println!(
            "{most:?}: {all} attempts each, {second} in a second, {moment} in 10 ms, {cost:?}, back in {waited:?}"
        );
        assert!(
            all <= GONE.as_secs_f64() / most.as_secs_f64() * 2.5 + 6.0,
            "{all} attempts of each"
        );
        assert!(second <= 5.0, "{second} attempts of each in a second");
        assert!(moment <= 0.2, "{moment} of all tried within 10 ms");
        assert!(
            cost.as_nanos() < attempts.len() as u128 * 100_000,
            "{cost:?} for {} attempts",
            attempts.len()
        );
        assert!(waited <= most, "back after {waited:?}");
        assert!(clients.iter().all(|(_, handle)| handle.counts().connections() == 2));
    }
}
