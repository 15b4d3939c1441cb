//! What the parts of the endpoint share.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use ropewalk::layer::tap::TapFormat;
use ropewalk::layer::{Histogram, TapLayer};
use ropewalk::{ConnectionInfo, Handle};
use ropewalk_middleware::event::tracing::Level;
use ropewalk_middleware::event::{Limit as LineLimit, event};
use tokio::time::Instant;

use crate::exposure::Bound;
use crate::history::History;
use crate::token::Token;

type Name = Box<dyn Fn(&ConnectionInfo) -> Option<String> + Send + Sync>;
type Text = Box<dyn Fn() -> String + Send + Sync>;
type Count = Box<dyn Fn() -> u64 + Send + Sync>;
type Get = Box<dyn Fn() -> usize + Send + Sync>;
type Set = Box<dyn Fn(usize) + Send + Sync>;

/// A limit that can be set.
pub(crate) struct Limit {
    pub(crate) name: String,
    pub(crate) get: Get,
    pub(crate) set: Set,
}

/// The tap of a server, and where its files are made.
pub(crate) struct Tapping {
    pub(crate) layer: TapLayer,
    folder: PathBuf,
    next: AtomicU64,
}

impl Tapping {
    pub(crate) fn new(layer: TapLayer, folder: PathBuf) -> Self {
        Self { layer, folder, next: AtomicU64::new(1) }
    }

    /// A file that has not existed in this process. A request does not name it, or it could be
    /// anywhere.
    pub(crate) fn file(&self, format: TapFormat) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let ending = if format == TapFormat::Hex { "txt" } else { "pcapng" };
        self.folder.join(format!("tap-{}-{number}.{ending}", std::process::id()))
    }
}

/// What the user's code tells about the server.
#[derive(Default)]
pub(crate) struct Hooks {
    pub(crate) name: Option<Name>,
    pub(crate) metrics: Option<Text>,
    pub(crate) histograms: Vec<(String, Histogram)>,
    pub(crate) counters: Vec<(String, Count)>,
    pub(crate) limits: Vec<Limit>,
    pub(crate) tap: Option<Tapping>,
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}

/// The state of the endpoint.
#[derive(Debug)]
pub(crate) struct App {
    /// The server that is watched.
    pub(crate) server: Handle,
    pub(crate) token: Option<Arc<Token>>,
    pub(crate) hosts: Vec<String>,
    pub(crate) hooks: Hooks,
    pub(crate) began: Instant,
    pub(crate) history: Arc<Mutex<History>>,
    /// The addresses of this endpoint.
    pub(crate) bound: OnceLock<Vec<Bound>>,
    pub(crate) wrong_tokens: WrongTokens,
}

/// The limit of the lines about wrong tokens.
pub(crate) struct WrongTokens(pub(crate) LineLimit);

impl WrongTokens {
    pub(crate) fn new() -> Self {
        Self(LineLimit::new(Level::WARN, |suppressed| {
            event!(WARN, suppressed, "more requests to the admin endpoint had a wrong token");
        }))
    }
}

impl fmt::Debug for WrongTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WrongTokens").finish_non_exhaustive()
    }
}
