//! Which requests are answered: by their Host, their Origin and their token.

use std::net::IpAddr;

use axum::http::header::{AUTHORIZATION, HOST, HeaderName, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, Request, StatusCode};

use crate::exposure::Via;
use crate::token::Token;

/// Routes that need no token: they show no data of peers.
const OPEN: [&str; 4] = ["/", "/healthz", "/readyz", "/metrics"];

/// Why a request is not answered.
pub(crate) type Refusal = (StatusCode, &'static str);

/// Checks a request.
pub(crate) fn check<B>(
    request: &Request<B>,
    via: &Via,
    hosts: &[String],
    token: Option<&Token>,
) -> Result<(), Refusal> {
    let host = host(request.headers())?;
    if !is_ours(&host, via, hosts) {
        let text = "This Host is not one of this endpoint (Admin::host): a page of another site may have sent you here.\n";
        return Err((StatusCode::FORBIDDEN, text));
    }
    check_origin(request.headers(), &host)?;
    let reads = request.method() == Method::GET || request.method() == Method::HEAD;
    if reads && (via.by_path || OPEN.contains(&request.uri().path())) {
        return Ok(());
    }
    check_token(request.headers(), token)
}

fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a [u8]>, Refusal> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value.map(|value| value.as_bytes())),
        _ => Err((StatusCode::BAD_REQUEST, "A header is there twice.\n")),
    }
}

fn host(headers: &HeaderMap) -> Result<Authority, Refusal> {
    let host =
        one(headers, &HOST)?.ok_or((StatusCode::BAD_REQUEST, "The request has no Host.\n"))?;
    let host = Authority::try_from(host).ok().filter(|host| !host.as_str().contains('@'));
    host.ok_or((StatusCode::BAD_REQUEST, "The Host is invalid.\n"))
}

/// A name that its owner can let point here is not ours, or a page of that name could read the
/// answers (DNS rebinding).
fn is_ours(host: &Authority, via: &Via, hosts: &[String]) -> bool {
    let name = host.host();
    if let Ok(ip) = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        let ip = ip.to_canonical();
        let bound = via.bound.map(|bound| bound.to_canonical());
        return ip.is_loopback()
            || bound == Some(ip)
            || bound.is_some_and(|bound| bound.is_unspecified());
    }
    name.eq_ignore_ascii_case("localhost")
        || hosts.iter().any(|ours| ours.eq_ignore_ascii_case(name))
}

/// A browser names the site whose page sends the request: that has to be this one.
fn check_origin(headers: &HeaderMap, host: &Authority) -> Result<(), Refusal> {
    let Some(origin) = one(headers, &ORIGIN)? else { return Ok(()) };
    let site = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
    if site.is_some_and(|site| site.eq_ignore_ascii_case(host.as_str().as_bytes())) {
        return Ok(());
    }
    Err((StatusCode::FORBIDDEN, "The request comes from a page of another site.\n"))
}

fn check_token(headers: &HeaderMap, token: Option<&Token>) -> Result<(), Refusal> {
    let Some(token) = token else {
        let text = "This needs a token, and the server has none: set one with Admin::token_file, or read by a Unix socket.\n";
        return Err((StatusCode::FORBIDDEN, text));
    };
    let shown = one(headers, &AUTHORIZATION)?.unwrap_or_default();
    let (scheme, shown) = shown.split_at_checked(b"Bearer ".len()).unwrap_or_default();
    if scheme.eq_ignore_ascii_case(b"Bearer ") && token.is(shown) {
        return Ok(());
    }
    Err((
        StatusCode::UNAUTHORIZED,
        "This needs the token: send it as `Authorization: Bearer TOKEN`.\n",
    ))
}
