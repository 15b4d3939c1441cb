//! Which requests are answered: by their Host, their Origin and their token.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use axum::http::header::{AUTHORIZATION, HOST, HeaderName, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, Request, StatusCode};

use crate::exposure::Via;
use crate::token::Token;

/// Routes that need no token: they show no data of peers.
const OPEN: [&str; 4] = ["/", "/healthz", "/readyz", "/metrics"];

/// Why a request is not answered.
pub(crate) type Refusal = (StatusCode, &'static str);

const OTHER_SITE: Refusal =
    (StatusCode::FORBIDDEN, "The request comes from a page of another site.\n");

/// Checks a request.
pub(crate) fn check<B>(
    request: &Request<B>,
    via: &Via,
    hosts: &[String],
    token: Option<&Token>,
) -> Result<(), Refusal> {
    let host = host(request)?;
    if !is_ours(&host, via, hosts) {
        let text = "This Host is not one of this endpoint (Admin::host): a page of another site may have sent you here.\n";
        return Err((StatusCode::FORBIDDEN, text));
    }
    check_origin(request.headers(), &host, via)?;
    let is_open = OPEN.contains(&request.uri().path());
    check_site(request.headers(), is_open)?;
    let reads = request.method() == Method::GET || request.method() == Method::HEAD;
    if reads && (via.by_path || is_open) {
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

/// The Host of a request. If its target is a complete URI, that is of the same host.
fn host<B>(request: &Request<B>) -> Result<Authority, Refusal> {
    let host = one(request.headers(), &HOST)?;
    let host = host.ok_or((StatusCode::BAD_REQUEST, "The request has no Host.\n"))?;
    let host = Authority::try_from(host).ok().filter(is_strict);
    let host = host.ok_or((StatusCode::BAD_REQUEST, "The Host is invalid.\n"))?;
    if request.uri().authority().is_some_and(|target| *target != host) {
        return Err((StatusCode::BAD_REQUEST, "The Host is not that of the request's URI.\n"));
    }
    Ok(host)
}

/// A host, and a port or none: the type also has user names, and allows text after an address.
fn is_strict(host: &Authority) -> bool {
    let is_port =
        |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    host.as_str()
        .strip_prefix(host.host())
        .is_some_and(|rest| rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port))
}

/// The address that a Host is, if it is one.
fn ip(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => host.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

/// A name that its owner can let point here is not ours, or a page of that name could read the
/// answers (DNS rebinding).
fn is_ours(host: &Authority, via: &Via, hosts: &[String]) -> bool {
    let name = host.host();
    if let Some(ip) = ip(name) {
        let ip = ip.to_canonical();
        let bound = via.bound.map(|bound| bound.to_canonical());
        return ip.is_loopback()
            || bound == Some(ip)
            || bound.is_some_and(|bound| bound.is_unspecified());
    }
    name.eq_ignore_ascii_case("localhost")
        || hosts.iter().any(|ours| ours.eq_ignore_ascii_case(name))
}

/// A browser names the site whose page sends the request: that has to be this one. A page that was
/// not encrypted may be anybody's, so an encrypted connection is not for it.
fn check_origin(headers: &HeaderMap, host: &Authority, via: &Via) -> Result<(), Refusal> {
    let Some(origin) = one(headers, &ORIGIN)? else { return Ok(()) };
    let plain = origin.strip_prefix(b"http://").filter(|_| !via.encrypted);
    let site = plain.or_else(|| origin.strip_prefix(b"https://"));
    if site.is_some_and(|site| site.eq_ignore_ascii_case(host.as_str().as_bytes())) {
        return Ok(());
    }
    Err(OTHER_SITE)
}

/// Where a browser names no Origin, as for an image, it still says whether the request comes from a
/// page of another site. Such a page may link to what has no data of peers, and no more.
fn check_site(headers: &HeaderMap, is_open: bool) -> Result<(), Refusal> {
    let says = |name: &'static str| one(headers, &HeaderName::from_static(name));
    let is_other = matches!(says("sec-fetch-site")?, Some(b"cross-site" | b"same-site"));
    let is_link = says("sec-fetch-mode")? == Some(b"navigate")
        && says("sec-fetch-dest")? == Some(b"document");
    if is_other && !(is_open && is_link) { Err(OTHER_SITE) } else { Ok(()) }
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
