//! Try it: `cargo build --example activated`, then `systemd-socket-activate -l 8007 target/debug/examples/activated`,
//! and `nc 127.0.0.1 8007`. In examples/systemd/ are the units of a real service.

use std::process::{self, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;
use ropewalk::cli::ServerArgs;
use ropewalk::{Lines, Result, Session, StateLayer, session_with};

#[derive(Parser)]
#[command(mut_arg("endpoints", |listen| listen.default_value("systemd:0")))]
struct Cli {
    #[command(flatten)]
    server: ServerArgs,
}

/// Says which process answers, and how many lines it has answered so far.
async fn who(mut s: Session<Lines>, answered: Arc<AtomicU64>) -> Result {
    while s.next().await?.is_some() {
        let n = answered.fetch_add(1, Ordering::Relaxed) + 1;
        s.feed(format!("process {}, answer {n}", process::id()))?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    // SIGTERM and SIGINT drain, SIGUSR2 restarts the binary without losing a connection. The service manager gets
    // READY=1 when the server accepts, STOPPING=1 when it drains, and WATCHDOG=1 while the runtime is alive.
    let server = Cli::parse()
        .server
        .server()
        // A handler that blocks for ever must not keep the process alive.
        .exit_if_stuck(75)
        .layer(StateLayer::new(Arc::new(AtomicU64::new(0))))
        .serve(session_with(Lines::any(), who));
    let handle = server.handle();
    server.await?;
    // The exit code tells whether the drain had to cut connections.
    let cut = handle.drain_report().map_or(0, |report| report.cut());
    Ok(if cut == 0 { ExitCode::SUCCESS } else { ExitCode::from(75) })
}
