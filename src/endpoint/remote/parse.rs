//! Remotes as strings.

use std::net::{IpAddr, Ipv4Addr};

use ropewalk_middleware::proxy::Version;

use super::super::input::{Input, PREFIX, Parts};
#[cfg(not(feature = "rustls"))]
use super::super::parse;
use super::super::tcp::TcpAddress;
use super::super::{EndpointError, Kind};
use super::{Remote, To};

#[cfg(feature = "rustls")]
pub(super) use self::encrypted::write as write_tls;

pub(super) fn parse(text: &str) -> Result<Remote, EndpointError> {
    let input = Input::new(text);
    let Parts { scheme, transport, encrypted, address, options } = input.parts()?;
    let mut remote: Remote = to(input, scheme, transport, address)?.into();
    if scheme.starts_with(PREFIX) {
        remote.proxied = Some(Version::V2);
    }
    #[cfg(feature = "rustls")]
    let mut tls = encrypted::ClientTlsOptions::new(encrypted);
    #[cfg(not(feature = "rustls"))]
    if encrypted {
        return Err(parse::without_tls(input));
    }
    let mut known = Vec::new();
    if matches!(remote.to, To::Tcp(_)) {
        known.push("from");
    }
    if remote.proxied.is_some() {
        known.push("header");
    }
    #[cfg(feature = "rustls")]
    known.extend_from_slice(tls.names());
    for (i, option) in options.iter().enumerate() {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        if !known.contains(&name) {
            return Err(unknown(input, scheme, name, &known));
        }
        if options[..i].iter().any(|other| other.split('=').next() == Some(name)) {
            return Err(input.error(format!("the option {name} is given twice"), "keep one"));
        }
        match name {
            "from" => remote.from = Some(from(input, value)?),
            "header" => remote.proxied = Some(version(input, value)?),
            #[cfg(feature = "rustls")]
            _ => tls.set(input, name, value)?,
            #[cfg(not(feature = "rustls"))]
            _ => {}
        }
    }
    #[cfg(feature = "rustls")]
    if encrypted {
        remote.tls = Some(tls.finish(input, remote.host().as_deref())?);
    }
    Ok(remote)
}

/// Parses the address: one of those of endpoints that can also be connected to.
fn to(input: Input<'_>, scheme: &str, transport: &str, text: &str) -> Result<To, EndpointError> {
    if matches!(transport, "systemd" | "fd") {
        let fix = "write tcp:HOST:PORT or unix:PATH";
        return Err(input.error("an inherited socket can't be connected to", fix));
    }
    match Kind::parse(input, transport, text)? {
        Kind::Tcp(TcpAddress::Ip(addr)) if addr.port() == 0 => {
            Err(input.error("port 0 can't be connected to", "write the port of the server"))
        }
        // For an endpoint this means all addresses of the machine.
        Kind::Tcp(TcpAddress::Ip(addr))
            if addr.ip() == Ipv4Addr::UNSPECIFIED && !text.contains(':') =>
        {
            let fix = format!("write {scheme}:HOST:{}", addr.port());
            Err(input.error("it has no address to connect to", fix))
        }
        Kind::Tcp(address) => Ok(To::Tcp(address)),
        Kind::Unix(address) => Ok(To::Unix(address)),
        _ => Err(input.error("it can only be listened on", "write tcp:HOST:PORT or unix:PATH")),
    }
}

fn unknown(input: Input<'_>, scheme: &str, name: &str, known: &[&str]) -> EndpointError {
    let options = match known {
        [] => format!("{scheme}: has no options for a client"),
        known => format!("the options of {scheme}: for a client are {}", known.join(", ")),
    };
    match name {
        "" => input.error(
            "an option is missing after \"?\" or \"&\"",
            format!("drop the sign; {options}"),
        ),
        name => input.error(format!("the option {name:?} is unknown"), options),
    }
}

fn from(input: Input<'_>, value: &str) -> Result<IpAddr, EndpointError> {
    value.parse().map_err(|_| {
        input.error(
            format!("{value:?} is not an address"),
            "write one of this machine's, such as from=192.0.2.7",
        )
    })
}

fn version(input: Input<'_>, value: &str) -> Result<Version, EndpointError> {
    match value {
        "1" => Ok(Version::V1),
        "2" => Ok(Version::V2),
        _ => Err(input.error(
            format!("{value:?} is not a version of the PROXY header"),
            "write header=1 or header=2",
        )),
    }
}

#[cfg(feature = "rustls")]
mod encrypted {
    use std::ffi::OsString;
    use std::fmt;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use super::super::super::EndpointError;
    use super::super::super::input::Input;
    use super::super::super::tls::{protocols, write_value};
    use crate::tls::ClientTls;

    /// The options parsed so far of a remote with TLS.
    pub(in super::super) struct ClientTlsOptions {
        names: &'static [&'static str],
        tls: ClientTls,
        cert: Option<PathBuf>,
        key: Option<PathBuf>,
    }

    impl ClientTlsOptions {
        pub(in super::super) fn new(encrypted: bool) -> Self {
            let names: &[_] = if encrypted { &["ca", "name", "cert", "key", "alpn"] } else { &[] };
            Self { names, tls: ClientTls::new(), cert: None, key: None }
        }

        pub(in super::super) fn names(&self) -> &'static [&'static str] {
            self.names
        }

        pub(in super::super) fn set(
            &mut self,
            input: Input<'_>,
            name: &str,
            value: &str,
        ) -> Result<(), EndpointError> {
            if value.is_empty() {
                return Err(input
                    .error(format!("the option {name} has no value"), format!("write {name}=…")));
            }
            let tls = self.tls.clone();
            let path = || input.decode(value).map(|bytes| PathBuf::from(OsString::from_vec(bytes)));
            match name {
                "ca" => self.tls = tls.ca(path()?),
                "name" => self.tls = tls.name(value),
                "alpn" => self.tls = tls.alpn(protocols(input, value)?),
                "cert" => self.cert = Some(path()?),
                _ => self.key = Some(path()?),
            }
            Ok(())
        }

        pub(in super::super) fn finish(
            self,
            input: Input<'_>,
            host: Option<&str>,
        ) -> Result<ClientTls, EndpointError> {
            let tls = match (self.cert, self.key) {
                (None, None) => self.tls,
                (Some(cert), Some(key)) => self.tls.identity(cert, key),
                (Some(_), None) => {
                    let fix = "write key=FILE; it may be the same file";
                    return Err(input.error("cert is given without key", fix));
                }
                (None, Some(_)) => {
                    return Err(input.error("key is given without cert", "write cert=FILE"));
                }
            };
            match tls.server_name(host) {
                Ok(_) => Ok(tls),
                Err(_) => Err(input.error(
                    "there is no name to verify the server's certificate by",
                    "write name=HOST, the name that the certificate is for",
                )),
            }
        }
    }

    /// Writes the options of a remote with TLS.
    pub(in super::super) fn write(
        f: &mut fmt::Formatter<'_>,
        tls: &ClientTls,
        mut sign: char,
    ) -> fmt::Result {
        let mut option = |f: &mut fmt::Formatter<'_>, name: &str, value: &[u8]| {
            write!(f, "{sign}{name}=")?;
            sign = '&';
            write_value(f, value)
        };
        let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
        if let Some(path) = tls.ca_path() {
            option(f, "ca", &bytes(path))?;
        }
        if let Some(name) = tls.own_name() {
            option(f, "name", name.as_bytes())?;
        }
        if let Some((cert, key)) = tls.identity_paths() {
            option(f, "cert", &bytes(cert))?;
            option(f, "key", &bytes(key))?;
        }
        for (i, protocol) in tls.protocols().iter().enumerate() {
            if i == 0 {
                option(f, "alpn", protocol)?;
            } else {
                f.write_str(",")?;
                write_value(f, protocol)?;
            }
        }
        Ok(())
    }
}
