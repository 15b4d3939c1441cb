//! Endpoint strings: `scheme:rest?option=value&option=value`.

use std::ffi::OsString;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

#[cfg(feature = "systemd")]
use super::inherited::Inherited;
use super::input::{Input, PREFIX, Parts, decode};
use super::ipv6::Scoped;
use super::proxied;
use super::{Endpoint, EndpointError, Kind, MAX_BACKLOG, MAX_PATH, check_name, check_path};

const SCHEMES: &str = "the schemes are tcp:, tls:, unix:, systemd: and fd:";

const NO_URL: &str = "an endpoint is not a URL, and \"//\" is not part of it";

pub(super) fn parse(text: &str) -> Result<Endpoint, EndpointError> {
    let input = Input::new(text);
    let Parts { scheme, transport, encrypted, place, mut options } = input.parts()?;
    let (kind, known) = kind(input, transport, place)?;
    let proxied = proxied::take_trusted(input, scheme, &kind, &mut options)?;
    let endpoint = Endpoint { proxied, ..kind.into() };
    if encrypted {
        tls(input, endpoint, scheme, &options, known)
    } else {
        plain(input, endpoint, scheme, &options, known)
    }
}

/// The socket, and the options that it accepts.
pub(super) fn kind(
    input: Input<'_>,
    transport: &str,
    place: &str,
) -> Result<(Kind, &'static [&'static str]), EndpointError> {
    Ok(match transport {
        "tcp" | "tls" if place.starts_with('[') => (tcp(input, place)?, &["backlog", "v6only"]),
        "tcp" | "tls" => (tcp(input, place)?, &["backlog"]),
        "unix" if place.starts_with('@') => (abstract_name(input, &place[1..])?, &["backlog"]),
        "unix" => (Kind::Unix(unix(input, place)?), &["mode", "user", "group", "backlog"]),
        #[cfg(feature = "systemd")]
        "systemd" => (
            Kind::Inherited(
                Inherited::parse_systemd(place).map_err(|(p, fix)| input.error(p, fix))?,
            ),
            &[],
        ),
        #[cfg(feature = "systemd")]
        "fd" => (
            Kind::Inherited(Inherited::parse_fd(place).map_err(|(p, fix)| input.error(p, fix))?),
            &[],
        ),
        #[cfg(not(feature = "systemd"))]
        "systemd" | "fd" => {
            let problem = format!(
                "{transport}: needs ropewalk's feature \"systemd\", which this program is built without"
            );
            return Err(input.error(problem, "turn it on in its Cargo.toml"));
        }
        "memory" => {
            return Err(input.error(
                "a memory: endpoint has no name",
                "make it with ropewalk::memory::endpoint()",
            ));
        }
        _ => return Err(unknown_scheme(input, transport)),
    })
}

/// An endpoint and its options.
fn plain(
    input: Input<'_>,
    mut endpoint: Endpoint,
    scheme: &str,
    options: &[&str],
    known: &[&str],
) -> Result<Endpoint, EndpointError> {
    for option in options {
        set_option(input, &mut endpoint, option, scheme, known)?;
    }
    Ok(endpoint)
}

/// An encrypted endpoint and its options.
#[cfg(feature = "tls")]
fn tls(
    input: Input<'_>,
    mut endpoint: Endpoint,
    scheme: &str,
    options: &[&str],
    known: &[&str],
) -> Result<Endpoint, EndpointError> {
    use super::tls::{OPTIONS, TlsOptions};
    let known = [&OPTIONS[..], known].concat();
    let mut tls = TlsOptions::default();
    for option in options {
        match option.split_once('=').unwrap_or((option, "")) {
            (name, value) if OPTIONS.contains(&name) => tls.set(input, name, value)?,
            _ => set_option(input, &mut endpoint, option, scheme, &known)?,
        }
    }
    Ok(endpoint.tls(tls.finish(input)?))
}

#[cfg(not(feature = "tls"))]
fn tls(
    input: Input<'_>,
    _: Endpoint,
    _: &str,
    _: &[&str],
    _: &[&str],
) -> Result<Endpoint, EndpointError> {
    Err(without_tls(input))
}

#[cfg(not(feature = "tls"))]
pub(super) fn without_tls(input: Input<'_>) -> EndpointError {
    let fix = "turn it on: features = [\"tls\"] in Cargo.toml";
    input.error("this program was built without ropewalk's feature tls", fix)
}

fn unknown_scheme(input: Input<'_>, scheme: &str) -> EndpointError {
    let lower = scheme.to_ascii_lowercase();
    let fix = if matches!(lower.as_str(), "proxy" | "haproxy") {
        format!("write {PREFIX}tcp: or {PREFIX}unix:")
    } else if matches!(lower.as_str(), "tcp" | "tls" | "unix" | "systemd" | "fd") {
        format!("write {lower}: in lower case")
    } else if let Some(port) = input.text.strip_prefix(':') {
        format!("write tcp:{port}")
    } else if let Some((_, address)) = input.text.split_once("://") {
        return input.error(NO_URL, format!("write tcp:{address}"));
    } else if lower == "udp" {
        SCHEMES.to_owned()
    } else if input.text.parse::<SocketAddr>().is_ok()
        || port(input, input.text.rsplit(':').next().unwrap_or("")).is_ok()
    {
        format!("{SCHEMES}, so write tcp:{} if that is an address", input.text)
    } else {
        SCHEMES.to_owned()
    };
    input.error(format!("the scheme {scheme:?} is unknown"), fix)
}

fn tcp(input: Input<'_>, place: &str) -> Result<Kind, EndpointError> {
    if place.is_empty() {
        return Err(input.error("there is no port", "write tcp:8007, or tcp:127.0.0.1:8007"));
    }
    if let Some(address) = place.strip_prefix("//") {
        return Err(input.error(NO_URL, format!("write tcp:{address}")));
    }
    if place.starts_with('[') {
        return tcp6(input, place);
    }
    let Some((host, digits)) = place.rsplit_once(':') else {
        // `tcp:localhost` lacks a port; `tcp:8007x` has a wrong one.
        if place.parse::<Ipv4Addr>().is_ok() || place.starts_with(|c: char| c.is_ascii_alphabetic())
        {
            return Err(
                input.error(format!("{place:?} has no port"), format!("write tcp:{place}:8007"))
            );
        }
        return Ok(Kind::Tcp((Ipv4Addr::UNSPECIFIED, port(input, place)?).into()));
    };
    if host.is_empty() {
        return Err(input.error(
            "there is no address before the last \":\"",
            format!("write tcp:{digits} for all of IPv4"),
        ));
    }
    if place.parse::<Ipv6Addr>().is_ok() || host.parse::<Ipv6Addr>().is_ok() {
        return Err(input.error(
            format!("the IPv6 address in {place:?} has no brackets"),
            "write tcp:[ADDRESS]:PORT",
        ));
    }
    check_host(input, host)?;
    let port = port(input, digits)?;
    match host.parse::<Ipv4Addr>() {
        Ok(ip) => Ok(Kind::Tcp((ip, port).into())),
        Err(_) => Ok(Kind::Name(host.to_owned(), port)),
    }
}

fn tcp6(input: Input<'_>, place: &str) -> Result<Kind, EndpointError> {
    let Some((address, rest)) = place[1..].split_once(']') else {
        return Err(input.error("the \"[\" is not closed", "write tcp:[::1]:8007"));
    };
    let Some(digits) = rest.strip_prefix(':') else {
        let problem = if rest.is_empty() {
            "there is no port".to_owned()
        } else {
            format!("{rest:?} is not a \":\" and a port")
        };
        return Err(input.error(problem, format!("write tcp:[{address}]:8007")));
    };
    let port = port(input, digits)?;
    // Parsed with its brackets, so that scopes are accepted: `[fe80::1%2]`.
    match format!("[{address}]:{port}").parse::<SocketAddrV6>() {
        Ok(addr) => Ok(Kind::Tcp(addr.into())),
        Err(_) => {
            match Scoped::parse(input, address, port)? {
                Some(scoped) => Ok(Kind::Scoped(scoped)),
                None => Err(input
                    .error(format!("{address:?} is not an IPv6 address"), "write tcp:[::1]:8007")),
            }
        }
    }
}

/// Distinguishes names that can be looked up from mistakes.
fn check_host(input: Input<'_>, host: &str) -> Result<(), EndpointError> {
    if let Some(c) =
        host.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')))
    {
        let fix = if c == ':' {
            "write tcp:ADDRESS:PORT, with one \":\" between"
        } else {
            "write tcp:ADDRESS:PORT"
        };
        return Err(
            input.error(format!("{c:?} in {host:?} is not part of an address or a name"), fix)
        );
    }
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or("");
    if last.bytes().all(|b| b.is_ascii_digit()) && host.parse::<Ipv4Addr>().is_err() {
        return Err(
            input.error(format!("{host:?} is not an IPv4 address"), "write one like 127.0.0.1")
        );
    }
    Ok(())
}

fn port(input: Input<'_>, digits: &str) -> Result<u16, EndpointError> {
    let fix = "write a port from 0 (any free one) to 65535";
    if digits.is_empty() {
        return Err(input.error("there is no port after the last \":\"", fix));
    }
    number(digits, 10, u32::from(u16::MAX))
        .and_then(|n| u16::try_from(n).map_err(|_| Number::Over))
        .map_err(|fault| match fault {
            Number::Over => input.error(format!("port {digits} is over 65535"), fix),
            Number::None => input.error(format!("{digits:?} is not a port"), fix),
        })
}

fn unix(input: Input<'_>, place: &str) -> Result<PathBuf, EndpointError> {
    if place.is_empty() {
        return Err(input.error("there is no path", "write unix:/run/x.sock"));
    }
    if place.starts_with("//") {
        // An absolute path, as in a URL. A path that really begins with "//" is written "%2F/".
        let path = place.trim_start_matches('/');
        return Err(input.error(
            NO_URL,
            format!("write unix:/{}", if path.is_empty() { "run/x.sock" } else { path }),
        ));
    }
    let path = PathBuf::from(OsString::from_vec(decode(input, place)?));
    let bytes = path.as_os_str().len();
    match check_path(&path) {
        Err(_) if bytes > MAX_PATH => {
            let problem = format!("the path has {bytes} bytes, which is over {MAX_PATH}");
            Err(input
                .error(problem, "choose a shorter one, or one relative to the working directory"))
        }
        Err(problem) => Err(input.error(problem, "choose another")),
        Ok(()) => Ok(path),
    }
}

fn abstract_name(input: Input<'_>, name: &str) -> Result<Kind, EndpointError> {
    let name = decode(input, name)?;
    match check_name(&name) {
        Ok(()) => Ok(Kind::Abstract(name.into())),
        Err(problem) => {
            Err(input.error(problem, "write unix:@name, with 1 to 107 bytes after the \"@\""))
        }
    }
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
    let (slot, base, max, fix) = match name {
        "v6only" => return endpoint.set_v6_only(input, value),
        "user" => return set_name(input, &mut endpoint.access.user, name, value),
        "group" => return set_name(input, &mut endpoint.access.group, name, value),
        "mode" => (
            &mut endpoint.access.mode,
            8,
            0o777,
            "write an octal number up to 777, such as mode=660",
        ),
        _ => (
            &mut endpoint.backlog,
            10,
            MAX_BACKLOG,
            "write how many may wait, such as backlog=1024",
        ),
    };
    if slot.is_some() {
        return Err(input.error(format!("the option {name} is given twice"), "keep one"));
    }
    match number(value, base, max) {
        Ok(0) if name == "backlog" => {
            Err(input.error("a backlog of 0 would accept no connections", fix))
        }
        Ok(n) => {
            *slot = Some(n);
            Ok(())
        }
        Err(Number::Over) => Err(input.error(format!("{name} {value} is too large"), fix)),
        Err(Number::None) => Err(input.error(format!("{value:?} is not a {name}"), fix)),
    }
}

/// Sets the user or the group: a valid name, or a number.
fn set_name(
    input: Input<'_>,
    slot: &mut Option<String>,
    option: &str,
    name: &str,
) -> Result<(), EndpointError> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '$');
    if slot.is_some() {
        return Err(input.error(format!("the option {option} is given twice"), "keep one"));
    }
    if name.is_empty() || !name.chars().all(is_part) {
        let problem = format!("{name:?} is not a {option}");
        return Err(
            input.error(problem, format!("write a name or a number, such as {option}=www-data"))
        );
    }
    *slot = Some(name.to_owned());
    Ok(())
}

/// Why a text is not a number.
enum Number {
    None,
    Over,
}

/// Parses a number that has only digits: no sign, no space.
fn number(text: &str, base: u32, max: u32) -> Result<u32, Number> {
    if text.is_empty() || !text.chars().all(|c| c.is_digit(base)) {
        return Err(Number::None);
    }
    // All are digits, so a number that fails here is too large.
    u32::from_str_radix(text, base).ok().filter(|&n| n <= max).ok_or(Number::Over)
}
