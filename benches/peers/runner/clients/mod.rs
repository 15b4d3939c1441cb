//! Clients: ropewalk's, the loop by hand, and those that others have written. Their own CPU time
//! for a call, their instructions and their system calls.

mod counts;
mod text;

use std::process::Command;

use ropewalk_peers::{CallCost, Mode, Result, on_cores};
use serde::Serialize;

use crate::peers::Peer;
use crate::running::Server;
use crate::{Args, build, root};

pub use self::text::markdown;

/// A client, what it is, and the program it is in; the last one speaks to a redis-server if it says
/// so.
const CLIENTS: [(&str, &str, &str, bool); 8] = [
    ("tower", "ropewalk, `ready` and `call`", "clients", false),
    ("ask", "ropewalk, `ask`", "clients", false),
    ("hand", "tokio-util by hand, gathered writes, oneshots", "clients", false),
    ("hand-joined", "the same, its futures joined as those of `ask` are", "clients", false),
    ("tokio-tower", "tokio-tower behind tower's `Buffer`", "clients-tokio-tower", false),
    ("resp", "ropewalk, RESP", "clients", true),
    ("redis", "redis, its multiplexed connection", "clients-redis", true),
    ("fred", "fred", "clients-redis", true),
];

/// The pattern of the calls and the number of threads: 64 calls at once, or one.
const SHAPES: [(&str, usize); 6] =
    [("waves", 1), ("tasks", 1), ("single", 1), ("waves", 2), ("tasks", 2), ("single", 2)];

/// What a client costs beside another in a shape, at most.
struct Must {
    ours: &'static str,
    against: &'static str,
    single: bool,
    cpu: f64,
    instructions: Option<f64>,
}

const MUSTS: [Must; 5] = [
    Must { ours: "tower", against: "hand", single: false, cpu: 1.10, instructions: Some(1.05) },
    // In waves the futures of `ask` are joined, and each leaves its waker; those of `tower` and
    // `hand` are awaited in their order, and most are ready by then. So `ask` has a loop by hand
    // that is called as it is.
    Must { ours: "ask", against: "hand-joined", single: false, cpu: 1.15, instructions: Some(1.05) },
    Must { ours: "tower", against: "hand", single: true, cpu: 1.15, instructions: None },
    Must { ours: "ask", against: "hand", single: true, cpu: 1.15, instructions: None },
    Must { ours: "resp", against: "redis", single: false, cpu: 0.5, instructions: None },
];

/// What was measured of a client in a shape.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    client: &'static str,
    shape: &'static str,
    threads: usize,
    rounds: Vec<CallCost>,
    /// Why rounds are missing
    pub failures: Vec<String>,
    /// For a call; on one thread only.
    instructions: Option<f64>,
    /// Writes, reads and waits for 64 calls, or for one; on one thread only.
    syscalls: Option<[f64; 3]>,
}

/// The servers of all clients: lines are sent back as they come.
struct Servers {
    lines: Server,
    redis: Option<Server>,
}

impl Servers {
    fn start(args: &Args) -> Result<Self> {
        let peer = Peer::all().into_iter().find(|peer| peer.name == "epoll").ok_or("no bare epoll")?;
        let lines = Server::start(&peer, Mode::Line, 64, &[args.server_core()])?;
        let redis = |port: u16| {
            let mut command = Command::new("redis-server");
            command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string()]);
            command
        };
        let redis = match Server::start_on_port("redis-server", redis, &[args.server_core()]) {
            Ok(server) => Some(server),
            Err(error) => {
                eprintln!("left out: clients of redis, {error}");
                None
            }
        };
        Ok(Self { lines, redis })
    }

    fn of(&self, redis: bool) -> Option<&Server> {
        if redis { self.redis.as_ref() } else { Some(&self.lines) }
    }
}

pub fn run(args: &Args) -> Result<Vec<Cell>> {
    if !args.ours {
        build::clients();
    }
    let servers = Servers::start(args)?;
    let mut cells = Vec::new();
    for (client, _, program, redis) in CLIENTS {
        let is_built = program == "clients" || !args.ours && root().join("target/release").join(program).exists();
        if !is_built || servers.of(redis).is_none() {
            eprintln!("left out: {client}");
            continue;
        }
        for (shape, threads) in SHAPES.into_iter().filter(|(shape, _)| args.takes(shape, client)) {
            cells.push(Cell {
                client,
                shape,
                threads,
                rounds: Vec::new(),
                failures: Vec::new(),
                instructions: None,
                syscalls: None,
            });
        }
    }
    for round in 0..args.rounds() {
        eprintln!("clients: round {} of {}", round + 1, args.rounds());
        // The one that was last is the first now.
        cells.reverse();
        for cell in &mut cells {
            match measure(args, cell, &servers) {
                Ok(cost) => cell.rounds.push(cost),
                Err(error) => {
                    eprintln!("{}/{}: {error}", cell.shape, cell.client);
                    cell.failures.push(error.to_string());
                }
            }
        }
    }
    if args.rounds() % 2 == 1 {
        cells.reverse();
    }
    for cell in cells.iter_mut().filter(|cell| cell.threads == 1) {
        cell.instructions = counts::instructions(args, cell, &servers)?;
        cell.syscalls = counts::syscalls(args, cell, &servers)?;
    }
    Ok(cells)
}

/// So many calls take about a third of a second by hand; a client that costs more takes longer.
fn measure(args: &Args, cell: &Cell, servers: &Servers) -> Result<CallCost> {
    let calls = args.secs() * if cell.shape == "single" { 40_000.0 } else { 1_000_000.0 };
    let cores = if cell.threads == 1 { vec![args.client_core()] } else { args.cores.clone() };
    let mut command = command(cell, servers, &[], calls as u64)?;
    command.args(["--warmup", &(calls as u64 / 10).to_string()]);
    let output = on_cores(&cores, || command.output())??;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The command of a client with this many calls, under a tool if one is given.
fn command(cell: &Cell, servers: &Servers, tool: &[&str], calls: u64) -> Result<Command> {
    let (.., program, redis) = CLIENTS.iter().find(|client| client.0 == cell.client).ok_or("no such client")?;
    let addr = servers.of(*redis).ok_or("no server")?.addr;
    let program = root().join("target/release").join(program);
    let mut command = match tool {
        [] => Command::new(program),
        [tool, options @ ..] => {
            let mut command = Command::new(tool);
            command.args(options).arg(program);
            command
        }
    };
    command.args([cell.client, cell.shape, &addr.to_string(), "--threads", &cell.threads.to_string()]);
    command.args(["--calls", &calls.to_string()]);
    Ok(command)
}
