//! A server whose endpoints are changed by the lines it receives: the tests of hot restarts run it.
//! It answers each line with one, and repeats those that it does not know.

use std::path::PathBuf;
use std::process::id;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use clap::Parser;
use ropewalk::cli::ServerArgs;
use ropewalk::server::Reload;
use ropewalk::{Bytes, Endpoint, Error, Handle, Lines, Result, Server, framed, service_fn};

static HANDLE: OnceLock<Handle> = OnceLock::new();
static STATES: OnceLock<Vec<State>> = OnceLock::new();

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    server: ServerArgs,
    /// An endpoint of the service `other`.
    #[arg(long)]
    other: Vec<Endpoint>,
    /// A file that is read again by a reload, and must not say `bad`.
    #[arg(long)]
    reload: Vec<PathBuf>,
}

/// How often a file was read, and what is in force of it.
struct State {
    file: PathBuf,
    read: AtomicUsize,
    text: Mutex<String>,
}

impl Reload for &'static State {
    type State = String;

    async fn read(&self) -> Result<String> {
        let text = std::fs::read_to_string(&self.file)?;
        self.read.fetch_add(1, Ordering::SeqCst);
        if text == "bad" { Err(Error::other("the file is bad")) } else { Ok(text) }
    }

    fn set(&self, text: String) {
        *self.text.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }
}

#[tokio::main]
async fn main() -> Result {
    let Args { server, other, reload } = Args::parse();
    let states = reload.into_iter().map(|file| State {
        file,
        read: AtomicUsize::new(0),
        text: Mutex::default(),
    });
    let states = STATES.get_or_init(|| states.collect());
    let service = |name: &'static str| {
        framed(
            Lines::lf(),
            service_fn(async move |line: Bytes| {
                let line = String::from_utf8_lossy(&line);
                Ok(match obey(name, &line).await {
                    Ok(answer) => answer,
                    Err(error) => format!("error: {error}"),
                })
            }),
        )
    };
    let server = states
        .iter()
        .fold(server.server(), Server::reload)
        .serve_on("other", other, service("other"))
        .serve(service("main"));
    // Nobody else sets it.
    let _ = HANDLE.set(server.handle());
    server.await
}

async fn obey(service: &str, line: &str) -> Result<String> {
    let handle = HANDLE.get().expect("it is set before the server runs");
    let number = |text: &str| text.parse::<usize>().map_err(Error::other);
    match line.split(' ').collect::<Vec<_>>()[..] {
        ["add", service, endpoint] => Ok(handle.add_endpoint(service, endpoint).await?.to_string()),
        ["remove", n] => handle.remove_endpoint(number(n)?).await.map(|()| "removed".to_owned()),
        ["pause", n] => handle.pause_endpoint(number(n)?).await.map(|()| "paused".to_owned()),
        ["resume", n] => handle.resume_endpoint(number(n)?).await.map(|()| "resumed".to_owned()),
        ["accepted", n] => Ok(handle.endpoints()[number(n)?].counts().accepted().to_string()),
        ["states"] => {
            let each = STATES.get().into_iter().flatten().map(|State { read, text, .. }| {
                format!(
                    "{}={}",
                    read.load(Ordering::SeqCst),
                    text.lock().unwrap_or_else(PoisonError::into_inner)
                )
            });
            Ok(each.collect::<Vec<_>>().join("; "))
        }
        ["process"] => Ok(id().to_string()),
        ["list"] => {
            let each = handle.endpoints();
            let each = each.iter().map(|endpoint| {
                format!(
                    "{} {} {} {:?}",
                    endpoint.number(),
                    endpoint.service(),
                    endpoint.address(),
                    endpoint.state()
                )
            });
            Ok(each.collect::<Vec<_>>().join("; "))
        }
        _ => Ok(format!("{service} {line}")),
    }
}
