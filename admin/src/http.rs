//! One connection of the endpoint.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName,
    REFERRER_POLICY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderValue, Request, Response, StatusCode};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use ropewalk::{Connection, Error, Result};
use ropewalk_middleware::event::aside;
use tokio::time::{sleep, timeout};
use tower::ServiceExt;

use crate::app::App;
use crate::exposure::Via;
use crate::guard;

/// How long a client may take for the head of a request, and between two requests.
const HEAD: Duration = Duration::from_secs(10);

/// How large the head of a request may be.
const HEAD_BYTES: usize = 16 * 1024;

/// How long a connection stays. A client that does not read its answer keeps no place for ever.
const AGE: Duration = Duration::from_secs(60);

/// How long an answer under way may take from then on, or when the endpoint ends.
pub(crate) const LAST: Duration = Duration::from_secs(5);

/// The policy of every answer but the page.
const NOTHING: &str =
    "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// Answers the requests of a connection.
pub(crate) async fn serve(connection: Connection, app: Arc<App>, router: Router) -> Result {
    let closing = connection.closing();
    let bound = app.bound.get().and_then(|bound| bound.get(connection.info().listener()));
    // It was not checked who can reach one that a handle has added.
    let Some(bound) = bound else {
        return Err(Error::other(
            "the admin endpoint answers on the addresses that it was bound to",
        ));
    };
    let via = Via::new(&connection, bound);
    let service = service_fn(move |request| {
        let (app, router, via) = (Arc::clone(&app), router.clone(), via.clone());
        async move { Ok::<_, Infallible>(answer(&app, router, via, request).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_BYTES);
    let mut http = pin!(builder.serve_connection(TokioIo::new(connection), service));
    tokio::select! {
        biased;
        ended = &mut http => return ended.map_err(Error::other),
        () = poll_fn(|cx| closing.poll_draining(cx)) => {}
        () = sleep(AGE) => {}
    }
    http.as_mut().graceful_shutdown();
    match timeout(LAST, http).await {
        Ok(ended) => ended.map_err(Error::other),
        Err(_) => Err(Error::other("the client took too long over its last request or answer")),
    }
}

async fn answer<B>(app: &App, router: Router, via: Via, request: Request<B>) -> Response<Body>
where
    B: hyper::body::Body<Data = hyper::body::Bytes, Error: Into<axum::BoxError>> + Send + 'static,
{
    let mut response = match guard::check(&request, &via, &app.hosts, app.token.as_deref()) {
        Err((status, why)) => {
            note_wrong_token(app, &via, status, &request);
            text(status, why)
        }
        Ok(()) => {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(via);
            match router.oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        }
    };
    protect(&mut response);
    response
}

/// A request without a token, such as the first one of the page, is not worth a line.
fn note_wrong_token<B>(app: &App, via: &Via, status: StatusCode, request: &Request<B>) {
    let shown = request.headers().contains_key(AUTHORIZATION);
    if shown && status == StatusCode::UNAUTHORIZED && app.wrong_tokens.0.pass() {
        let peer = via.peer.clone();
        aside!(WARN, %peer, "a request to the admin endpoint had a wrong token");
    }
}

fn protect(response: &mut Response<Body>) {
    let unauthorized = response.status() == StatusCode::UNAUTHORIZED;
    let headers = response.headers_mut();
    let always = [
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    for (name, value) in always {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(NOTHING));
    if unauthorized {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
}

/// A plain answer.
pub(crate) fn text(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    with_type(status, "text/plain; charset=utf-8", body)
}

/// An answer of this type.
pub(crate) fn with_type(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Body>,
) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
