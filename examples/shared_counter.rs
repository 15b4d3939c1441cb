//! Try it: `cargo run --example shared_counter`, then `seq 3 | nc -N 127.0.0.1 8007`, again and again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;
use ropewalk::cli::ServerArgs;
use ropewalk::{Bytes, Lines, Result, StateLayer, framed, reply_fn};
use tower::ServiceBuilder;

/// The state that all connections share, on all endpoints.
#[derive(Default)]
struct State {
    lines: AtomicU64,
}

/// Answers each line with the number of lines so far.
fn count((state, _line): (Arc<State>, Bytes)) -> String {
    let before = state.lines.fetch_add(1, Ordering::Relaxed);
    (before + 1).to_string()
}

#[tokio::main]
async fn main() -> Result {
    let state = Arc::new(State::default());
    // Without this layer the server would not compile, because `count` requires its state.
    let counter = ServiceBuilder::new().layer(StateLayer::new(state)).service(reply_fn(count));
    ServerArgs::parse().server().serve(framed(Lines::any(), counter)).await
}
