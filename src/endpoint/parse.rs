//! Endpoint strings: `scheme:rest?option=value&option=value`.

use super::input::{Input, PREFIX, Parts};
use super::proxied;
use super::tcp::is_like_an_address;
use super::{Endpoint, EndpointError, Kind, SCHEMES};

pub(super) fn parse(text: &str) -> Result<Endpoint, EndpointError> {
    let input = Input::new(text);
    let Parts { scheme, transport, encrypted, address, mut options } = input.parts()?;
    let kind = Kind::parse(input, transport, address)?;
    let proxied = proxied::take_trusted(input, scheme, &kind, &mut options)?;
    let endpoint = Endpoint { proxied, ..kind.into() };
    if encrypted {
        tls(input, endpoint, scheme, &options)
    } else {
        plain(input, endpoint, scheme, &options)
    }
}

/// An endpoint and its options.
fn plain(
    input: Input<'_>,
    mut endpoint: Endpoint,
    scheme: &str,
    options: &[&str],
) -> Result<Endpoint, EndpointError> {
    let known = endpoint.kind.scheme().options();
    for option in options {
        set_option(input, &mut endpoint, option, scheme, known)?;
    }
    Ok(endpoint)
}

/// An encrypted endpoint and its options.
#[cfg(feature = "rustls")]
fn tls(
    input: Input<'_>,
    mut endpoint: Endpoint,
    scheme: &str,
    options: &[&str],
) -> Result<Endpoint, EndpointError> {
    use super::tls::{OPTIONS, TlsOptions};
    let known = [&OPTIONS[..], endpoint.kind.scheme().options()].concat();
    let mut tls = TlsOptions::default();
    for option in options {
        match option.split_once('=').unwrap_or((option, "")) {
            (name, value) if OPTIONS.contains(&name) => tls.set(input, name, value)?,
            _ => set_option(input, &mut endpoint, option, scheme, &known)?,
        }
    }
    Ok(endpoint.tls(tls.finish(input)?))
}

#[cfg(not(feature = "rustls"))]
fn tls(input: Input<'_>, _: Endpoint, _: &str, _: &[&str]) -> Result<Endpoint, EndpointError> {
    Err(without_tls(input))
}

#[cfg(not(feature = "rustls"))]
pub(super) fn without_tls(input: Input<'_>) -> EndpointError {
    let fix = "turn it on: features = [\"tls\"] in Cargo.toml";
    input.error("this program was built without ropewalk's feature tls", fix)
}

fn set_option(
    input: Input<'_>,
    endpoint: &mut Endpoint,
    option: &str,
    scheme: &str,
    known: &[&str],
) -> Result<(), EndpointError> {
    let trust = proxied::takes_trust(scheme, &endpoint.kind).then_some("trust");
    let options = || match known.iter().copied().chain(trust).collect::<Vec<_>>() {
        known if known.is_empty() => format!("{scheme}: has no options"),
        known => format!("the options of {scheme}: are {}", known.join(", ")),
    };
    if option.is_empty() {
        return Err(input.error(
            "an option is missing after \"?\" or \"&\"",
            format!("drop the sign; {}", options()),
        ));
    }
    let (name, value) = option.split_once('=').unwrap_or((option, ""));
    if !known.contains(&name) {
        return Err(input.error(format!("the option {name:?} is unknown"), options()));
    }
    endpoint.options.set(input, name, value)
}

/// The error of a scheme that no endpoint has.
pub(super) fn unknown_scheme(input: Input<'_>, scheme: &str) -> EndpointError {
    let all: Vec<String> = SCHEMES.iter().map(|(name, _)| format!("{name}:")).collect();
    let all = match all.split_last() {
        Some((last, others)) => format!("the schemes are {} and {last}", others.join(", ")),
        None => String::new(),
    };
    let lower = scheme.to_ascii_lowercase();
    let fix = if matches!(lower.as_str(), "proxy" | "haproxy") {
        format!("write {PREFIX}tcp: or {PREFIX}unix:")
    } else if SCHEMES.iter().any(|(name, _)| *name == lower) {
        format!("write {lower}: in lower case")
    } else if let Some(port) = input.text.strip_prefix(':') {
        format!("write tcp:{port}")
    } else if let Some((_, address)) = input.text.split_once("://") {
        return input.not_a_url(format!("tcp:{address}"));
    } else if lower != "udp" && is_like_an_address(input.text) {
        format!("{all}, so write tcp:{} if that is an address", input.text)
    } else {
        all
    };
    input.error(format!("the scheme {scheme:?} is unknown"), fix)
}
