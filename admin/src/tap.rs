//! `/tap`: connections that are recorded.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Extension, Router};
use ropewalk::layer::IpNet;
use ropewalk::layer::tap::{TapEnd, TapFormat, TapRules, TapStatus};
use ropewalk_middleware::event::aside;
use serde::{Deserialize, Serialize};

use crate::app::{App, Tapping};
use crate::exposure::Via;
use crate::http::text;
use crate::routes::{Answer, Refused, Shared, fields, find, json};

/// The largest file that can be asked for.
const MOST_BYTES: u64 = 1024 * 1024 * 1024;

/// The longest tap that can be asked for: an hour.
const MOST_SECONDS: u64 = 3600;

/// The requests, for the router.
pub(crate) fn routes(app: Arc<App>) -> Router {
    Router::new()
        .route("/tap", get(shown))
        .route("/tap/start", post(start))
        .route("/tap/stop", post(stop))
        .route("/connections/{id}/tap", post(join))
        .with_state(app)
}

fn tapping(app: &App) -> Result<&Tapping, Refused> {
    let why = "The server has no tap: give it one with Admin::tap.\n";
    app.hooks.tap.as_ref().ok_or_else(|| Refused::new(StatusCode::NOT_FOUND, why))
}

/// What is shown of a tap.
#[derive(Serialize)]
struct ShownTap {
    running: bool,
    file: String,
    bytes: u64,
    connections: u64,
    lost: u64,
    /// `null` until the file is complete.
    end: Option<String>,
}

impl ShownTap {
    fn new(running: bool, status: &TapStatus) -> Self {
        let end = status.end().map(|end| match end {
            TapEnd::Stopped => "stopped".to_owned(),
            TapEnd::MaxBytes => "max_bytes".to_owned(),
            TapEnd::MaxTime => "max_time".to_owned(),
            TapEnd::Failed(kind) => kind.to_string(),
            _ => "ended".to_owned(),
        });
        Self {
            running,
            file: status.path().display().to_string(),
            bytes: status.bytes(),
            connections: status.connections(),
            lost: status.lost(),
            end,
        }
    }
}

async fn shown(State(app): Shared) -> Result<Answer, Refused> {
    let layer = &tapping(&app)?.layer;
    let running = layer.is_running();
    Ok(json(&layer.status().map(|status| ShownTap::new(running, &status))))
}

/// What to record.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    peer: Option<String>,
    listener: Option<usize>,
    sample: Option<u64>,
    max_bytes: Option<u64>,
    max_seconds: Option<u64>,
    #[serde(default)]
    hex: bool,
}

impl Wanted {
    fn rules(self) -> Result<TapRules, Refused> {
        let refused = |why: String| Refused::new(StatusCode::BAD_REQUEST, why);
        let format = self.format();
        let mut rules = TapRules::new();
        if let Some(peer) = self.peer {
            let address = || peer.parse().map(|ip: std::net::IpAddr| IpNet::from(ip));
            let network = peer.parse().or_else(|_| address());
            let network = network.map_err(|_| {
                refused("`peer` is an address or a network, 192.0.2.0/24.\n".into())
            })?;
            rules = rules.peer(network);
        }
        if let Some(listener) = self.listener {
            rules = rules.listener(listener);
        }
        if let Some(sample) = self.sample {
            if sample == 0 {
                return Err(refused("`sample` is at least 1.\n".into()));
            }
            rules = rules.sample(sample);
        }
        if let Some(bytes) = self.max_bytes {
            if bytes > MOST_BYTES {
                return Err(refused(format!("`max_bytes` is at most {MOST_BYTES}.\n")));
            }
            rules = rules.max_bytes(bytes);
        }
        if let Some(seconds) = self.max_seconds {
            if seconds > MOST_SECONDS {
                return Err(refused(format!("`max_seconds` is at most {MOST_SECONDS}.\n")));
            }
            rules = rules.max_time(Duration::from_secs(seconds));
        }
        Ok(rules.format(format))
    }

    fn format(&self) -> TapFormat {
        if self.hex { TapFormat::Hex } else { TapFormat::PcapNg }
    }
}

async fn start(
    State(app): Shared,
    Extension(via): Extension<Via>,
    body: Body,
) -> Result<Answer, Refused> {
    let tap = tapping(&app)?;
    let wanted: Wanted = fields(body).await?;
    let file = tap.file(wanted.format());
    tap.layer.start(wanted.rules()?, &file).map_err(|error| {
        let status = match error.kind() {
            ErrorKind::ResourceBusy => StatusCode::CONFLICT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Refused::new(status, format!("{}: {error}\n", file.display()))
    })?;
    let (peer, path) = (via.peer, file.display().to_string());
    aside!(WARN, %peer, file = %path, "connections are recorded by a request to the admin endpoint");
    Ok(text(StatusCode::ACCEPTED, format!("{}\n", file.display())))
}

async fn stop(State(app): Shared, Extension(via): Extension<Via>) -> Result<Answer, Refused> {
    tapping(&app)?.layer.stop();
    let peer = via.peer;
    aside!(WARN, %peer, "the recording was stopped by a request to the admin endpoint");
    Ok(text(StatusCode::OK, "stopped\n"))
}

async fn join(
    State(app): Shared,
    Extension(via): Extension<Via>,
    Path(id): Path<u64>,
) -> Result<Answer, Refused> {
    let tap = tapping(&app)?;
    if !tap.layer.join(&find(&app, id)?) {
        return Err(Refused::new(StatusCode::CONFLICT, "No tap is running: start one.\n"));
    }
    let peer = via.peer;
    aside!(WARN, %peer, id, "a connection is recorded by a request to the admin endpoint");
    Ok(text(StatusCode::OK, "recorded\n"))
}
