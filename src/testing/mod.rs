//! Whole servers under simulated faults, and checks for layers.
//!
//! [`check_layer`] and [`check_connection_layer`] look for the usual mistakes of a layer of your
//! own.
//!
//! A [`Simulation`] runs a scenario on one thread, with a simulated clock that advances only when
//! no task can run. A seed determines a run, so a failed run can be repeated. The scenario gets a
//! [`World`]: endpoints whose connections are cut, reset, delayed, stalled, and read and written in
//! small pieces, and dice for its own choices. The seed determines all of that, so two runs with
//! the same seed are equal to the last byte, which their [`Trace`]s show.
//!
//! ```
//! use std::time::Duration;
//!
//! use ropewalk::testing::Simulation;
//! use ropewalk::{Bytes, Lines, Server, framed, reply_fn};
//! use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
//!
//! Simulation::new().seeds(0..20, async |world| {
//!     let (endpoint, connector) = world.endpoint();
//!     let server = Server::new().listen(endpoint).serve(framed(Lines::lf(), reply_fn(|line: Bytes| line)));
//!     let handle = server.handle();
//!     let server = tokio::spawn(server);
//!
//!     let mut client = BufReader::new(connector.connect().await.unwrap());
//!     for i in 0..world.roll(10) {
//!         // The connection may break at any byte, but the bytes that arrive are those that were sent.
//!         let line = format!("line {i}\n");
//!         let mut answer = String::new();
//!         if client.write_all(line.as_bytes()).await.is_err() || client.read_line(&mut answer).await.is_err() {
//!             break;
//!         }
//!         assert!(line.starts_with(&answer), "{answer:?} is not an answer to {line:?}");
//!     }
//!     drop(client);
//!     handle.drain(Duration::from_secs(30));
//!     server.await.unwrap().unwrap();
//!     world.audit(&handle);
//! });
//! ```
//!
//! A simulation does not cover features with threads or sockets of their own: workers, hot
//! restarts, TCP and Unix endpoints. A scenario that uses these, the system's clock or other random
//! numbers differs from run to run.

mod faults;
mod stream;
mod trace;

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime;
use tokio::time::timeout;

/// Checks for layers of your own.
pub use ropewalk_middleware::testing::*;

pub use self::faults::Faults;
pub use self::trace::Trace;

use self::faults::Dice;
use self::stream::FaultyListener;
use crate::memory::{self, Connector};
use crate::{Endpoint, Handle};

/// The environment variable that makes [`Simulation::seeds`] run only one seed.
pub const SEED: &str = "ROPEWALK_SEED";

/// Runs scenarios, with settings for the faults and for the duration of a run.
#[derive(Clone, Debug)]
pub struct Simulation {
    faults: Faults,
    limit: Duration,
}

impl Default for Simulation {
    fn default() -> Self {
        Self::new()
    }
}

impl Simulation {
    /// A simulation with every kind of fault, whose runs may last a day of simulated time.
    #[must_use]
    pub fn new() -> Self {
        Self { faults: Faults::default(), limit: Duration::from_secs(24 * 3600) }
    }

    /// Sets the faults of its connections.
    #[must_use]
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    /// Sets how much simulated time a run may take. A scenario that is not done by then panics,
    /// because a part of it waits for ever.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs a scenario with one seed.
    ///
    /// # Panics
    ///
    /// With the panic of the scenario; when the scenario exceeds its [`limit`](Self::limit); when
    /// its connections move a million pieces while the clock stands still; and when called inside a
    /// tokio runtime, because it starts its own.
    pub fn run(&self, seed: u64, scenario: impl AsyncFnOnce(World)) -> Trace {
        let runtime =
            runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        // Only an I/O driver could fail to start, and it has none.
        let runtime = runtime.expect("a runtime without I/O can be built");
        let limit = self.limit;
        let trace = runtime.block_on(async {
            let world = World::new(seed, self.faults.clone());
            let done = timeout(limit, scenario(world.clone())).await;
            assert!(done.is_ok(), "not done in {limit:?} of simulated time");
            world.trace()
        });
        // Tasks that the scenario left running end here, and not later in the process.
        drop(runtime);
        trace
    }

    /// Runs a scenario with each of these seeds, or with the one that the variable `ROPEWALK_SEED`
    /// names.
    ///
    /// # Panics
    ///
    /// At the first seed that fails, with the seed in the message; otherwise as [`run`](Self::run).
    /// If `ROPEWALK_SEED` is not a number.
    pub fn seeds(&self, seeds: impl IntoIterator<Item = u64>, scenario: impl AsyncFn(World)) {
        match std::env::var(SEED) {
            Ok(seed) => {
                let seed = seed.parse().unwrap_or_else(|_| panic!("{SEED}={seed} is not a number"));
                self.run(seed, async |world| scenario(world).await);
            }
            Err(_) => seeds.into_iter().for_each(|seed| self.run_named(seed, &scenario)),
        }
    }

    fn run_named(&self, seed: u64, scenario: &impl AsyncFn(World)) {
        let run = AssertUnwindSafe(|| self.run(seed, async |world| scenario(world).await));
        if let Err(panic) = catch_unwind(run) {
            match text(&*panic) {
                Some(text) => panic!("seed {seed}: {text}\nrun it again with {SEED}={seed}"),
                None => resume_unwind(panic),
            }
        }
    }
}

fn text(panic: &(dyn Any + Send)) -> Option<&str> {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
}

/// The environment of a scenario. Its clones are the same world.
#[derive(Clone)]
pub struct World(Arc<WorldShared>);

struct WorldShared {
    seed: u64,
    faults: Faults,
    state: Mutex<WorldState>,
}

struct WorldState {
    dice: Dice,
    trace: Trace,
    /// Connections accepted so far.
    connections: u64,
}

impl World {
    fn new(seed: u64, faults: Faults) -> Self {
        let state = WorldState { dice: Dice::new(seed), trace: Trace::new(), connections: 0 };
        Self(Arc::new(WorldShared { seed, faults, state: Mutex::new(state) }))
    }

    fn state(&self) -> MutexGuard<'_, WorldState> {
        // It holds only numbers, which are consistent even after a panic.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The seed of this run.
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// An endpoint in memory, and the connector to it, as from [`memory::endpoint`]. The faults are
    /// at the server's end of its connections; the client's end has no faults.
    #[must_use]
    pub fn endpoint(&self) -> (Endpoint, Connector) {
        let (listener, connector) = memory::bare();
        (Endpoint::from_listener(FaultyListener::new(listener, self.clone())), connector)
    }

    /// A random number below `sides`; 0 if `sides` is 0.
    pub fn roll(&self, sides: u64) -> u64 {
        self.state().dice.roll(sides)
    }

    /// True with a probability of `percent` in a hundred.
    pub fn happens(&self, percent: u8) -> bool {
        self.roll(100) < u64::from(percent)
    }

    /// Adds a note to the trace of this run, for example an answer that a client received.
    pub fn note(&self, what: impl fmt::Display) {
        self.state().trace.add(0, &what.to_string(), 0);
    }

    /// The trace of the run so far.
    pub fn trace(&self) -> Trace {
        self.state().trace.clone()
    }

    /// Checks the counters of a server that has ended.
    ///
    /// # Panics
    ///
    /// If a connection or preamble is still open, if the number of accepted connections is not the
    /// sum of those that ended for each reason, or if memory is still counted for connections.
    #[track_caller]
    pub fn audit(&self, handle: &Handle) {
        let counts = handle.counts();
        let preambles = handle.preambles();
        let closed: u64 = counts.reasons().map(|(_, n)| n).sum();
        assert_eq!(counts.active(), 0, "connections are still open: {counts:?}");
        assert_eq!(
            counts.accepted(),
            closed,
            "accepted and not closed, or closed and not accepted: {counts:?}"
        );
        assert_eq!(preambles.pending(), 0, "preambles are still under way: {preambles:?}");
        assert_eq!(
            handle.memory().in_use(),
            0,
            "the buffers of ended connections are still counted"
        );
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("seed", &self.0.seed)
            .field("trace", &self.trace())
            .finish_non_exhaustive()
    }
}
