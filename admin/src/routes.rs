//! The requests that are answered.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query as FromQuery, State};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Extension, Router};
use ropewalk::ConnectionInfo;
use ropewalk_middleware::event::aside;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::app::App;
use crate::exposure::Via;
use crate::http::{text, with_type};
use crate::list::Query;
use crate::page;
use crate::status::{MAX_CONNECTIONS, status};

/// How large the body of a request may be.
const BODY_BYTES: usize = 4096;

/// How long it may take to arrive.
const BODY: Duration = Duration::from_secs(5);

/// How long a drain may take if the request does not say.
const DRAIN_SECONDS: u64 = 30;

/// The longest drain that can be asked for: a day.
const MOST_DRAIN_SECONDS: u64 = 24 * 60 * 60;

pub(crate) type Answer = Response<Body>;
pub(crate) type Shared = State<Arc<App>>;

/// Why a request has no other answer.
pub(crate) struct Refused(StatusCode, Cow<'static, str>);

impl Refused {
    pub(crate) fn new(status: StatusCode, why: impl Into<Cow<'static, str>>) -> Self {
        Self(status, why.into())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Answer {
        let Self(status, why) = self;
        text(status, why)
    }
}

pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(async || page::page()))
        .route("/healthz", get(async || text(StatusCode::OK, "ok\n")))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/status", get(async |State(app): Shared| json(&status(&app))))
        .route("/connections", get(connections))
        .route("/connections/{id}/drain", post(drain_one))
        .route("/connections/{id}/abort", post(abort_one))
        .route("/drain", post(drain))
        .route("/limits/{name}", post(set_limit))
        .route("/reload", post(reload))
        .fallback(async || text(StatusCode::NOT_FOUND, "There is nothing at this path.\n"))
        .method_not_allowed_fallback(async || {
            text(StatusCode::METHOD_NOT_ALLOWED, "This path does not answer this method.\n")
        })
        .with_state(app)
}

pub(crate) fn json(value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => with_type(StatusCode::OK, "application/json", body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

async fn ready(State(app): Shared) -> Answer {
    if app.server.is_draining() {
        text(StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else {
        text(StatusCode::OK, "ready\n")
    }
}

async fn metrics(State(app): Shared) -> Answer {
    match &app.hooks.metrics {
        Some(render) => {
            with_type(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", render())
        }
        None => text(
            StatusCode::NOT_FOUND,
            "The server has no metrics: give it some with Admin::metrics.\n",
        ),
    }
}

async fn connections(
    State(app): Shared,
    query: Result<FromQuery<Query>, QueryRejection>,
) -> Answer {
    let listed = match query {
        Ok(FromQuery(query)) => query.list(&app.server, &app.hooks),
        Err(error) => Err(format!("{}\n", error.body_text())),
    };
    match listed {
        Ok(list) => json(&list),
        Err(why) => text(StatusCode::BAD_REQUEST, why),
    }
}

/// The fields of a request's body; an empty one has none.
pub(crate) async fn fields<T: DeserializeOwned>(body: Body) -> Result<T, Refused> {
    let read = timeout(BODY, to_bytes(body, BODY_BYTES)).await;
    let read = read
        .map_err(|_| Refused::new(StatusCode::REQUEST_TIMEOUT, "The request took too long.\n"))?;
    let bytes = read.map_err(|_| {
        let why = format!("The body was cut short, or has more than {BODY_BYTES} bytes.\n");
        Refused::new(StatusCode::PAYLOAD_TOO_LARGE, why)
    })?;
    let bytes = if bytes.is_empty() { &b"{}"[..] } else { &bytes[..] };
    serde_json::from_slice(bytes)
        .map_err(|error| Refused::new(StatusCode::BAD_REQUEST, format!("{error}\n")))
}

/// How long a drain may take.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Within {
    #[serde(default = "drain_seconds")]
    within_seconds: u64,
}

fn drain_seconds() -> u64 {
    DRAIN_SECONDS
}

impl Within {
    fn duration(self) -> Result<Duration, Refused> {
        if self.within_seconds > MOST_DRAIN_SECONDS {
            let why = format!("`within_seconds` is at most {MOST_DRAIN_SECONDS}.\n");
            return Err(Refused::new(StatusCode::BAD_REQUEST, why));
        }
        Ok(Duration::from_secs(self.within_seconds))
    }
}

async fn within(body: Body) -> Result<Duration, Refused> {
    fields::<Within>(body).await?.duration()
}

async fn drain(
    State(app): Shared,
    Extension(via): Extension<Via>,
    body: Body,
) -> Result<Answer, Refused> {
    let within = within(body).await?;
    app.server.drain(within);
    let (peer, within_seconds) = (via.peer, within.as_secs());
    aside!(WARN, %peer, within_seconds, "the server is drained by a request to its admin endpoint");
    Ok(text(StatusCode::ACCEPTED, "draining\n"))
}

/// The open connection with this number.
pub(crate) fn find(app: &App, id: u64) -> Result<ConnectionInfo, Refused> {
    let found = app.server.connections_where(|connection| connection.id() == id).pop();
    found
        .ok_or_else(|| Refused::new(StatusCode::NOT_FOUND, "No open connection has this number.\n"))
}

async fn drain_one(
    State(app): Shared,
    Extension(via): Extension<Via>,
    Path(id): Path<u64>,
    body: Body,
) -> Result<Answer, Refused> {
    let within = within(body).await?;
    let connection = find(&app, id)?;
    app.server.drain_these(&[connection], within);
    let peer = via.peer;
    aside!(WARN, %peer, id, "a connection is drained by a request to the admin endpoint");
    Ok(text(StatusCode::ACCEPTED, "draining\n"))
}

async fn abort_one(
    State(app): Shared,
    Extension(via): Extension<Via>,
    Path(id): Path<u64>,
) -> Result<Answer, Refused> {
    find(&app, id)?.abort();
    let peer = via.peer;
    aside!(WARN, %peer, id, "a connection was aborted by a request to the admin endpoint");
    Ok(text(StatusCode::OK, "aborted\n"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Value {
    value: usize,
}

async fn set_limit(
    State(app): Shared,
    Extension(via): Extension<Via>,
    Path(name): Path<String>,
    body: Body,
) -> Result<Answer, Refused> {
    let Value { value } = fields(body).await?;
    if value == 0 {
        return Err(Refused::new(
            StatusCode::BAD_REQUEST,
            "A limit of 0 would refuse everybody: drain the server instead.\n",
        ));
    }
    if name == MAX_CONNECTIONS {
        app.server.set_max_connections(value);
    } else if let Some(limit) = app.hooks.limits.iter().find(|limit| limit.name == name) {
        (limit.set)(value);
    } else {
        return Err(Refused::new(StatusCode::NOT_FOUND, "No limit has this name.\n"));
    }
    let peer = via.peer;
    aside!(WARN, %peer, limit = %name, value, "a limit was set by a request to the admin endpoint");
    Ok(text(StatusCode::OK, "set\n"))
}

async fn reload(State(app): Shared, Extension(via): Extension<Via>) -> Result<Answer, Refused> {
    let failed = |error: ropewalk::Error| {
        Refused::new(StatusCode::INTERNAL_SERVER_ERROR, format!("Nothing was reloaded: {error}\n"))
    };
    // What this endpoint has to reload goes with it.
    app.server.reload().await.map_err(failed)?;
    let peer = via.peer;
    aside!(WARN, %peer, "the server was reloaded by a request to its admin endpoint");
    Ok(text(StatusCode::OK, "reloaded\n"))
}
