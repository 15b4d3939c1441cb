//! What drives a client: `CLIENT SHAPE ADDR --calls N`. It connects, calls some before it counts,
//! then that many, and prints what a call cost.

use std::fmt;
use std::net::SocketAddr;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use ropewalk::Bytes;
use ropewalk_peers::{CallCost, Result, cpu_ns};
use tokio::runtime::Builder;

/// Calls at once in `waves` and `tasks`.
pub const IN_FLIGHT: usize = 64;
const SIZE: usize = 64;
/// Each unlike its neighbours, and no divisor of a wave: an answer of another call is noticed.
const LINES: usize = 97;

/// The pattern in which calls are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shape {
    /// One task, which makes 64 calls, then awaits them all
    Waves,
    /// 64 tasks with a call each
    Tasks,
    /// One task with one call
    Single,
}

/// A client under load.
#[derive(Debug, Parser)]
struct Args {
    /// Which of the clients of this program
    client: String,
    shape: Shape,
    addr: SocketAddr,
    #[arg(long)]
    calls: u64,
    /// Calls before those that count
    #[arg(long, default_value_t = 0)]
    warmup: u64,
    /// Threads of the runtime
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

/// A client that is measured; clones share its connection.
pub trait Caller: Clone + Send + 'static {
    fn one(&mut self, line: Bytes) -> impl Future<Output = Result> + Send;
    fn wave(&mut self, lot: Lot<'_>) -> impl Future<Output = Result> + Send;
}

/// The lines of a wave.
#[derive(Clone, Copy, Debug)]
pub struct Lot<'a> {
    lines: &'a [Bytes],
    first: usize,
    len: usize,
}

impl<'a> Lot<'a> {
    #[allow(dead_code)] // not every client needs it
    pub fn len(self) -> usize {
        self.len
    }

    pub fn lines(self) -> impl Iterator<Item = Bytes> + 'a {
        (self.first..self.first + self.len).map(move |i| self.lines[i % LINES].clone())
    }

    /// The same in lots of 16.
    #[allow(dead_code)] // not every client needs it
    pub fn parts(self) -> impl Iterator<Item = Self> {
        (0..self.len).step_by(16).map(move |i| Self { first: self.first + i, len: 16.min(self.len - i), ..self })
    }
}

/// An error unless the answer was its call's.
pub fn check(right: bool) -> Result {
    if right { Ok(()) } else { Err("the answer of another call".into()) }
}

/// Runs a program whose clients `make` knows by name.
pub fn run<C: Caller>(make: impl AsyncFnOnce(&str, SocketAddr) -> Result<Option<C>>) -> Result {
    let args = Args::parse();
    let mut runtime = match args.threads {
        1 => Builder::new_current_thread(),
        n => {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(n);
            builder
        }
    };
    let runtime = runtime.enable_all().build()?;
    let client = runtime.block_on(make(&args.client, args.addr))?;
    let client = client.ok_or_else(|| format!("no client is called {}", args.client))?;
    let (shape, calls, warmup) = (args.shape, args.calls, args.warmup);
    // In a task, because the thread that blocks on a runtime of several threads is not one of
    // those.
    let cost = runtime.block_on(runtime.spawn(async move {
        load(client.clone(), shape, warmup.max(1)).await?;
        let (cpu, began) = (cpu_ns(std::process::id())?, Instant::now());
        load(client, shape, calls).await?;
        let (cpu, wall) = (cpu_ns(std::process::id())? - cpu, began.elapsed());
        Ok::<_, Error>(CallCost {
            calls,
            cpu_ns: cpu as f64 / calls as f64,
            wall_ns: wall.as_nanos() as f64 / calls as f64,
        })
    }))??;
    println!("{}", serde_json::to_string(&cost)?);
    Ok(())
}

type Error = Box<dyn std::error::Error + Send + Sync>;

fn lines() -> Vec<Bytes> {
    let line = |i| {
        let mut line = format!("{i:08}").into_bytes();
        line.extend((line.len()..SIZE).map(|j| b'a' + ((i + j) % 26) as u8));
        Bytes::from(line)
    };
    (0..LINES).map(line).collect()
}

/// At least that many calls: a whole number of waves, and as many of each task.
async fn load<C: Caller>(mut client: C, shape: Shape, calls: u64) -> Result {
    let lines = lines();
    let turns = if shape == Shape::Single { calls } else { calls.div_ceil(IN_FLIGHT as u64) } as usize;
    match shape {
        Shape::Single => {
            for turn in 0..turns {
                client.one(lines[turn % LINES].clone()).await?;
            }
        }
        Shape::Waves => {
            for turn in 0..turns {
                client.wave(Lot { lines: &lines, first: turn * IN_FLIGHT, len: IN_FLIGHT }).await?;
            }
        }
        Shape::Tasks => {
            let task = |i: usize| {
                let (mut client, lines) = (client.clone(), lines.clone());
                tokio::spawn(async move {
                    for turn in 0..turns {
                        client.one(lines[(turn * 7 + i) % LINES].clone()).await?;
                    }
                    Ok::<_, Error>(())
                })
            };
            let tasks: Vec<_> = (0..IN_FLIGHT).map(task).collect();
            for task in tasks {
                task.await??;
            }
        }
    }
    Ok(())
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waves => "waves",
            Self::Tasks => "tasks",
            Self::Single => "single",
        })
    }
}
