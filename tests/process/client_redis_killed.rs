//! A client of a real redis-server that is killed and started again under load: 5 times, or as
//! often as the variable `ROPEWALK_KILLS` says (`ROPEWALK_KILLS=200 cargo test --test process
//! redis_killed -- --nocapture`).

#[rustfmt::skip]
#[path = "../../examples/redis_client/resp.rs"]
mod resp;

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::{Child, Command as Process, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use resp::{Command, Resp, Value};
use ropewalk::client::{Backoff, Client, ClientError, Pipelined};
use tokio::time::{sleep, timeout};

use crate::support::{Dice, PATIENCE, TempDir, program};

type Redis = Pipelined<Command, Value>;

/// How calls ended: each is done, not sent, or may have arrived.
#[derive(Default)]
struct Ended {
    done: Vec<u64>,
    not_sent: Vec<u64>,
    unknown: u64,
}

/// Every change is on the disk before it is answered, so that what was executed is there after a
/// kill.
fn start(server: &PathBuf, dir: &TempDir) -> Child {
    let mut redis = Process::new(server);
    redis.args(["--port", "0", "--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
    redis.arg("--dir").arg(dir.join("")).arg("--unixsocket").arg(dir.join("redis.sock"));
    redis.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn client(dir: &TempDir) -> (Redis, ropewalk::client::ClientHandle) {
    let client = Client::new().connect(format!("unix:{}", dir.join("redis.sock").display()));
    let client =
        client.backoff(Backoff::between(Duration::from_millis(5), Duration::from_millis(50)));
    // While it reads its file redis answers with an error.
    let client = client.prepare(async |mut s: ropewalk::Session<Resp>| {
        s.feed(Command::new(["PING"]))?;
        match s.next().await? {
            Some(Value::Text(pong)) if pong == "PONG" => Ok(s),
            other => Err(ropewalk::Error::other(format!("it is not ready: {other:?}"))),
        }
    });
    client.call_within(Duration::from_secs(10)).pipelined(Resp).unwrap()
}

/// Calls until it is told to stop. Every other one changes something, and every answer must be its
/// call's.
async fn load(
    redis: Redis,
    next: Arc<AtomicU64>,
    done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> Ended {
    let mut ended = Ended::default();
    while !stop.load(Ordering::Relaxed) {
        let id = next.fetch_add(1, Ordering::Relaxed);
        let text = id.to_string();
        let changes = id.is_multiple_of(2);
        let command =
            if changes { ["SADD", "seen", &text].to_vec() } else { ["ECHO", &text].to_vec() };
        match redis.ask(Command::new(command)).await {
            Ok(answer) => {
                let wanted = if changes { "1".to_owned() } else { text };
                assert_eq!(answer, Value::Text(wanted.into()), "the answer of another call");
                done.fetch_add(1, Ordering::Relaxed);
                if changes {
                    ended.done.push(id);
                }
            }
            Err(error) if error.is_not_sent() => ended.not_sent.push(id),
            Err(ClientError::MayHaveArrived(_) | ClientError::TimedOut { .. }) => {
                ended.unknown += 1;
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    ended
}

/// Kills the server and starts it again, each time when some calls have been answered.
async fn kill(server: &PathBuf, dir: &TempDir, done: &AtomicU64, kills: u64) -> Child {
    let mut dice = Dice::new(kills);
    let mut child = start(server, dir);
    for _ in 0..kills {
        let before = done.load(Ordering::Relaxed);
        let answered = async {
            while done.load(Ordering::Relaxed) < before + 200 {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, answered).await.expect("nothing is answered any more");
        sleep(Duration::from_micros(dice.roll(5000) as u64)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        child = start(server, dir);
    }
    child
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_is_wrong_and_unsent_requests_were_not_executed_however_often_it_is_killed() {
    let Some(server) = program("redis-server") else { return };
    let kills = std::env::var("ROPEWALK_KILLS").map_or(5, |kills| kills.parse().unwrap());
    let dir = TempDir::new();
    let (redis, handle) = client(&dir);
    let (next, done, stop) =
        (Arc::default(), Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let load = |_| {
        tokio::spawn(load(redis.clone(), Arc::clone(&next), Arc::clone(&done), Arc::clone(&stop)))
    };
    let tasks: Vec<_> = (0..32).map(load).collect();
    let mut child = kill(&server, &dir, &done, kills).await;
    stop.store(true, Ordering::Relaxed);
    let (mut stored, mut not_sent, mut unknown) = (Vec::new(), Vec::new(), 0);
    for task in tasks {
        let ended = task.await.unwrap();
        stored.extend(ended.done);
        not_sent.extend(ended.not_sent);
        unknown += ended.unknown;
    }
    let Ok(Value::List(seen)) = redis.ask(Command::new(["SMEMBERS", "seen"])).await else {
        panic!("no list")
    };
    let number = |value: &Value| {
        if let Value::Text(text) = value {
            String::from_utf8_lossy(text).parse().ok()
        } else {
            None
        }
    };
    let seen: HashSet<u64> = seen.iter().filter_map(number).collect();
    assert!(stored.iter().all(|id| seen.contains(id)), "what was answered is not there");
    assert!(not_sent.iter().all(|id| !seen.contains(id)), "what was not sent was executed");
    let counts = handle.counts();
    assert!(counts.connections() > kills, "{counts:?}");
    assert_eq!(counts.pending(), 0);
    println!(
        "{kills} kills, {} calls, {} failed, {} of them not sent, {unknown} may have arrived, {} connections",
        counts.calls(),
        counts.failed(),
        not_sent.len(),
        counts.connections()
    );
    child.kill().unwrap();
    child.wait().unwrap();
}
