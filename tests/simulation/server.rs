//! Whole servers under simulated faults, 500 seeds: order, exactly what was acknowledged, the
//! books, no leak, and the same run again from the same seed. A longer run: `ROPEWALK_SEEDS=1000000
//! cargo test --release --test simulation nothing_is_lost`, or a piece of it:
//! `ROPEWALK_SEEDS=250000..500000`. One seed: `ROPEWALK_SEED=17 cargo test --test simulation`.

use std::collections::HashMap;
use std::ops::Range;
use std::panic::catch_unwind;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ropewalk::memory::{Connector, MemoryStream};
use ropewalk::server::Counts;
use ropewalk::testing::{Faults, SEED, Simulation, World};
use ropewalk::{
    Bytes, CloseReason, ConnectionService, Error, Lines, Reply, Result, Server, Session, framed,
    service_fn, session,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, ReadHalf, WriteHalf};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tower::Service;

/// How often each request was processed: of which client, and which of its requests.
type Journal = Arc<Mutex<HashMap<(u64, u64), u32>>>;

/// Does what a request says: `CLIENT NUMBER WHAT N`.
async fn process(journal: Journal, line: Bytes) -> Result<Vec<String>> {
    let text = std::str::from_utf8(&line)?;
    let words: Vec<&str> = text.split(' ').collect();
    let [client, number, what, n] = words[..] else {
        return Err(Error::other(format!("no request: {text}")));
    };
    let (client, number, n): (u64, u64, u64) = (client.parse()?, number.parse()?, n.parse()?);
    *journal.lock().unwrap().entry((client, number)).or_default() += 1;
    match what {
        "wait" => sleep(Duration::from_millis(n)).await,
        "turn" => tokio::task::yield_now().await,
        "fail" => return Err(Error::other(format!("{client} {number} failed"))),
        "fall" => panic!("as asked"),
        "many" => {
            let lines = (0..n).map(|i| format!("{client} {number} part {i}"));
            return Ok(lines.chain([format!("{client} {number} done")]).collect());
        }
        _ => {}
    }
    Ok(vec![format!("{client} {number} done{}", ".".repeat(usize::try_from(n)?))])
}

fn frames(
    journal: &Journal,
) -> impl Service<Bytes, Response = Reply<String>, Error = Error, Future: Send> + Clone + Send + use<>
{
    let journal = Arc::clone(journal);
    service_fn(move |line: Bytes| {
        let answers = process(Arc::clone(&journal), line);
        async { Ok(Reply::many(answers.await?)) }
    })
}

/// The answer to a request that failed. After a missed deadline there is no answer.
fn told(error: &Error) -> Reply<String> {
    let text = error.to_string();
    if text.ends_with(" failed") { Reply::one(text) } else { Reply::none().then_close() }
}

/// One request after the other, as an author would write it.
async fn by_hand(mut s: Session<Lines>, journal: Journal) -> Result {
    while let Some(line) = s.next().await? {
        match s.during(process(Arc::clone(&journal), line)).await? {
            Ok(answers) => {
                for answer in answers {
                    s.send(answer).await?;
                }
            }
            Err(error) => s.send(error.to_string()).await?,
        }
    }
    s.close().await
}

/// The requests of a client, and their answers.
struct Heard {
    client: u64,
    /// How many requests it sent, all of them before this moment.
    asked: u64,
    by: Instant,
    /// The requests that were answered whole, in the order of their answers.
    answered: Vec<u64>,
    /// Whether the connection ended properly.
    ended: bool,
}

/// A client that sends bursts of requests, reads at its own pace and leaves in its own way.
async fn talk(world: World, connector: Connector, client: u64, comes: Duration) -> Option<Heard> {
    sleep(comes).await;
    let stream = connector.connect().await.ok()?;
    let (reader, writer) = tokio::io::split(stream);
    let (asked, mut heard) =
        tokio::join!(ask(&world, client, writer), listen(&world, client, reader));
    (heard.asked, heard.by) = asked;
    Some(heard)
}

async fn ask(world: &World, client: u64, mut writer: WriteHalf<MemoryStream>) -> (u64, Instant) {
    let (requests, mut by) = (world.roll(40), Instant::now());
    for number in 0..requests {
        let (what, n) = match world.roll(40) {
            0..8 => ("wait", world.roll(100)),
            8..16 => ("turn", 0),
            16..18 => ("fail", 0),
            18 if world.happens(10) => ("fall", 0),
            19..22 => ("many", world.roll(50)),
            _ => ("echo", world.roll(3000)),
        };
        // A request that could not be sent was not served; one that was sent may have been.
        if writer.write_all(format!("{client} {number} {what} {n}\n").as_bytes()).await.is_err() {
            return (number, by);
        }
        by = Instant::now();
        if world.happens(20) {
            sleep(Duration::from_millis(world.roll(300))).await;
        }
    }
    // A half-closed client is answered as well as one that waits.
    drop(writer.shutdown().await);
    (requests, by)
}

async fn listen(world: &World, client: u64, reader: ReadHalf<MemoryStream>) -> Heard {
    let (mut reader, mut answered, mut slow) =
        (BufReader::new(reader), Vec::new(), world.happens(10));
    let mut heard =
        Heard { client, asked: 0, by: Instant::now(), answered: Vec::new(), ended: false };
    loop {
        let mut line = String::new();
        match reader.read_line(&mut line).await {
            Ok(0) => {
                heard.ended = true;
                break;
            }
            Ok(_) if line.ends_with('\n') => {
                world.note(&line);
                answered.extend(understood(client, line.trim_end()));
            }
            Ok(_) => panic!("half an answer looks whole: {line:?}"),
            Err(_) => break,
        }
        if slow {
            sleep(Duration::from_secs(world.roll(20))).await;
            slow = world.happens(70);
        }
    }
    heard.answered = answered;
    heard
}

/// The request that this line is the last of an answer to.
fn understood(client: u64, line: &str) -> Option<u64> {
    let words: Vec<&str> = line.splitn(3, ' ').collect();
    let [whose, number, what] = words[..] else { panic!("no answer: {line:?}") };
    assert_eq!(whose, client.to_string(), "somebody else's answer: {line:?}");
    let done = what.trim_end_matches('.') == "done" || what == "failed";
    assert!(done || what.starts_with("part "), "no answer: {line:?}");
    done.then(|| number.parse().unwrap())
}

/// A server of some kind, some clients, and a drain at some moment.
async fn scenario(world: World) {
    serve(&world).await;
}

/// The same, and nobody is given up but for a reason.
async fn sound(world: World) {
    let (all, (drain, counts)) = serve(&world).await;
    let cut: u64 =
        counts.reasons().filter(|(reason, _)| !PROPER.contains(reason)).map(|(_, n)| n).sum();
    let broken = all.iter().filter(|heard| !heard.ended).count();
    assert!(broken as u64 <= cut, "{broken} connections broke: {counts:?}");
    for Heard { client, asked, by, answered, .. } in
        all.iter().filter(|heard| heard.ended && cut == 0)
    {
        assert!(
            *by >= drain || *asked == answered.len() as u64,
            "{client}: {asked} asked, {answered:?} answered"
        );
    }
}

/// How a connection ends that nothing was wrong with.
const PROPER: [CloseReason; 2] = [CloseReason::Done, CloseReason::Drained];

/// What the clients heard, when the drain began, and the books.
type Served = (Vec<Heard>, (Instant, Counts));

async fn serve(world: &World) -> Served {
    let journal = Journal::default();
    let served = match world.roll(4) {
        0 => run(world, framed(Lines::lf(), frames(&journal)).on_error(told), &journal, true).await,
        1 => {
            let service = framed(Lines::lf(), frames(&journal)).concurrent(8).on_error(told);
            run(world, service, &journal, true).await
        }
        2 => {
            let service = framed(Lines::lf(), frames(&journal)).unordered(8).on_error(told);
            run(world, service, &journal, false).await
        }
        _ => {
            let books = Arc::clone(&journal);
            let service =
                session(Lines::lf(), move |s: Session<Lines>| by_hand(s, Arc::clone(&books)));
            run(world, service, &journal, true).await
        }
    };
    assert_eq!(Arc::strong_count(&journal), 1, "something of the server lives on");
    served
}

async fn run(
    world: &World,
    service: impl ConnectionService,
    journal: &Journal,
    in_order: bool,
) -> Served {
    let (endpoint, connector) = world.endpoint();
    let cap = if world.happens(30) { 3 } else { 100 };
    let server = Server::new().max_connections(cap).listen(endpoint);
    // Where nobody makes room, all that wait come to their turn because others leave.
    let server = if world.happens(50) { server.make_room(None) } else { server };
    let server = server.serve(service).bind().await.unwrap();
    let handle = server.handle();
    let server = tokio::spawn(server);
    let mut clients = JoinSet::new();
    let mut comes = Duration::ZERO;
    for client in 0..1 + world.roll(8) {
        comes = Duration::from_millis(world.roll(200));
        clients.spawn(talk(world.clone(), connector.clone(), client, comes));
    }
    drop(connector);
    let mut all = Vec::new();
    if world.happens(30) {
        // Nothing but their turn keeps them waiting.
        timeout(Duration::from_secs(3600), all_of(&mut clients, &mut all))
            .await
            .expect("every client is served");
    } else if world.happens(30) {
        // The drain begins at the moment when the last one comes.
        sleep(comes).await;
    } else {
        sleep(Duration::from_millis(world.roll(4000))).await;
    }
    let (within, told) = (Duration::from_secs(1 + world.roll(60)), Instant::now());
    handle.drain(within);
    timeout(within + Duration::from_secs(5), server)
        .await
        .expect("the drain ends by its deadline")
        .unwrap()
        .unwrap();
    assert!(told.elapsed() <= within + Duration::from_secs(5));
    world.audit(&handle);
    all_of(&mut clients, &mut all).await;
    let counts = handle.counts();
    check(&all, &journal.lock().unwrap(), in_order, counts.closed(CloseReason::Panic) > 0);
    (all, (told, counts))
}

async fn all_of(clients: &mut JoinSet<Option<Heard>>, all: &mut Vec<Heard>) {
    while let Some(heard) = clients.join_next().await {
        all.extend(heard.unwrap());
    }
}

/// Each request was processed once at most, each that was answered once, and the answers came in
/// order.
fn check(all: &[Heard], journal: &HashMap<(u64, u64), u32>, in_order: bool, panicked: bool) {
    assert!(journal.values().all(|&times| times == 1), "processed twice: {journal:?}");
    for heard in all {
        let Heard { client, answered, ended, .. } = heard;
        for number in answered {
            assert!(
                journal.contains_key(&(*client, *number)),
                "{client} {number} was answered and not processed"
            );
        }
        let mut sorted = answered.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), answered.len(), "answered twice: {answered:?}");
        if in_order {
            let expected: Vec<u64> = (0..answered.len() as u64).collect();
            assert_eq!(
                *answered, expected,
                "answers of client {client} are missing or not in order"
            );
        }
        // A proper end means that all that was processed was answered.
        let processed = journal.keys().filter(|(whose, _)| whose == client).count();
        assert!(
            !ended || panicked || processed == answered.len(),
            "{client}: {processed} processed, {answered:?} answered"
        );
    }
}

/// The seeds; more for a long run, or a piece of one.
fn seeds() -> Range<u64> {
    std::env::var("ROPEWALK_SEEDS").map_or(0..500, |text| piece(&text))
}

/// So many seeds, or those from one to another.
fn piece(text: &str) -> Range<u64> {
    let (first, end) = text.split_once("..").unwrap_or(("0", text));
    let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("{text:?} is not a number"));
    number(first)..number(end)
}

#[test]
fn a_long_run_can_be_made_in_pieces() {
    assert_eq!(piece("1000"), 0..1000);
    assert_eq!(piece("1000..3000"), 1000..3000);
    assert!(catch_unwind(|| piece("1000..many")).is_err());
}

#[test]
fn nothing_is_lost_torn_or_answered_twice_whatever_the_network_does() {
    Simulation::new().seeds(seeds(), scenario);
}

#[test]
fn a_network_without_faults_answers_all() {
    Simulation::new().faults(Faults::none()).seeds(0..100, sound);
}

#[test]
fn the_same_seed_is_the_same_run() {
    let traces: Vec<_> = (0..60).map(|seed| Simulation::new().run(seed, scenario)).collect();
    for (seed, trace) in (0..).zip(&traces) {
        assert_eq!(Simulation::new().run(seed, scenario), *trace, "seed {seed}");
    }
    assert_ne!(traces[0].hash(), traces[1].hash());
}

#[test]
fn a_failing_seed_is_named_with_how_to_run_it_again() {
    if std::env::var(SEED).is_ok() {
        // Then that seed is run again, and not this one.
        return;
    }
    let failing = || {
        Simulation::new().seeds(3..9, async |world| assert_ne!(world.seed(), 5, "it is five"));
    };
    let panic = catch_unwind(failing).unwrap_err();
    let text = panic.downcast_ref::<String>().unwrap();
    assert!(text.starts_with("seed 5: ") && text.contains("it is five"), "{text}");
    assert!(text.ends_with("run it again with ROPEWALK_SEED=5"), "{text}");
}

#[test]
fn a_scenario_that_waits_for_ever_or_spins_fails() {
    let waits = || {
        Simulation::new()
            .limit(Duration::from_secs(60))
            .run(1, async |_| std::future::pending().await)
    };
    assert!(catch_unwind(waits).is_err());
    let spins = || {
        Simulation::new().run(1, async |world| {
            loop {
                world.note("again");
            }
        })
    };
    assert!(catch_unwind(spins).is_err());
}

#[test]
fn faults_happen_as_often_as_was_asked_for() {
    let broken = |faults: Faults| {
        let mut broken = 0;
        for seed in 0..200 {
            Simulation::new().faults(faults.clone()).run(seed, async |world| {
                let (endpoint, connector) = world.endpoint();
                let mut listener = endpoint.bind().await.unwrap();
                let mut client = connector.connect().await.unwrap();
                let (mut stream, _) = std::future::poll_fn(|cx| listener.poll_accept(cx)).await;
                client.write_all(&[b'.'; 5000]).await.unwrap();
                drop(client.shutdown().await);
                let mut heard = Vec::new();
                let whole = stream.read_to_end(&mut heard).await.is_ok() && heard.len() == 5000;
                broken += u32::from(!whole);
            });
        }
        broken
    };
    assert_eq!(broken(Faults::none()), 0);
    assert_eq!(broken(Faults::none().pieces(100).delays(100).stalls(100)), 0);
    assert_eq!(broken(Faults::none().cuts(100)), 200);
    assert!((70..130).contains(&broken(Faults::none().resets(50))));
}
