//! The options of `tls:` endpoints.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use ropewalk_middleware::percent;

use super::EndpointError;
use super::input::Input;
use crate::tls::{CertSource, TlsConfig};

/// The names of the options.
pub(super) const OPTIONS: [&str; 9] =
    ["cert", "key", "certs", "client-ca", "client-cert", "crl", "alpn", "tickets", "plain"];

const FORMS: &str = "write ?cert=FILE&key=FILE, or ?certs=FOLDER";

/// The options parsed so far.
#[derive(Default)]
pub(super) struct TlsOptions {
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    certs: Option<PathBuf>,
    client_ca: Option<PathBuf>,
    client_optional: Option<bool>,
    crl: Option<PathBuf>,
    tickets: Option<bool>,
    alpn: Option<Vec<Vec<u8>>>,
    plain: Option<bool>,
}

impl TlsOptions {
    pub(super) fn set(
        &mut self,
        input: Input<'_>,
        name: &str,
        value: &str,
    ) -> Result<(), EndpointError> {
        let twice = || input.error(format!("the option {name} is given twice"), "keep one");
        let slot = match name {
            "cert" => &mut self.cert,
            "key" => &mut self.key,
            "certs" => &mut self.certs,
            "client-ca" => &mut self.client_ca,
            "crl" => &mut self.crl,
            "client-cert" => {
                let optional = one_of(input, name, value, ["required", "optional"])?;
                return self.client_optional.replace(optional).map_or(Ok(()), |_| Err(twice()));
            }
            "tickets" => {
                let tickets = one_of(input, name, value, ["false", "true"])?;
                return self.tickets.replace(tickets).map_or(Ok(()), |_| Err(twice()));
            }
            "plain" => {
                let plain = one_of(input, name, value, ["false", "true"])?;
                return self.plain.replace(plain).map_or(Ok(()), |_| Err(twice()));
            }
            _ => {
                return self
                    .alpn
                    .replace(protocols(input, value)?)
                    .map_or(Ok(()), |_| Err(twice()));
            }
        };
        if value.is_empty() {
            return Err(
                input.error(format!("the option {name} has no path"), format!("write {name}=PATH"))
            );
        }
        let path = PathBuf::from(OsString::from_vec(input.decode(value)?));
        slot.replace(path).map_or(Ok(()), |_| Err(twice()))
    }

    pub(super) fn finish(self, input: Input<'_>) -> Result<TlsConfig, EndpointError> {
        let mut tls = match (self.cert, self.key, self.certs) {
            (Some(cert), Some(key), None) => TlsConfig::files(cert, key),
            (None, None, Some(folder)) => TlsConfig::folder(folder),
            (None, None, None) => return Err(input.error("there is no certificate", FORMS)),
            (Some(_), None, None) => {
                return Err(input.error(
                    "cert is given without key",
                    "write key=FILE; it may be the same file",
                ));
            }
            (None, Some(_), None) => {
                return Err(input.error("key is given without cert", "write cert=FILE"));
            }
            (.., Some(_)) => return Err(input.error("certs goes with neither cert nor key", FORMS)),
        };
        tls = match (self.client_ca, self.client_optional) {
            (Some(path), Some(true)) => tls.optional_client_ca(path),
            (Some(path), _) => tls.client_ca(path),
            (None, Some(_)) => {
                return Err(
                    input.error("client-cert goes with client-ca", "write client-ca=FILE too")
                );
            }
            (None, None) => tls,
        };
        if let Some(crl) = self.crl {
            if tls.client_ca.is_none() {
                return Err(input.error("crl goes with client-ca", "write client-ca=FILE too"));
            }
            tls = tls.crl(crl);
        }
        if let Some(protocols) = self.alpn {
            tls = tls.alpn(protocols);
        }
        let tls = tls.tickets(self.tickets.unwrap_or_default());
        Ok(tls.accept_plain(self.plain.unwrap_or_default()))
    }
}

/// Whether a value is the second of two.
fn one_of(
    input: Input<'_>,
    name: &str,
    value: &str,
    [no, yes]: [&str; 2],
) -> Result<bool, EndpointError> {
    match value {
        _ if value == no => Ok(false),
        _ if value == yes => Ok(true),
        _ => Err(input.error(
            format!("{name}={value} is unknown"),
            format!("write {name}={no} or {name}={yes}"),
        )),
    }
}

/// Names of protocols, separated by commas. RFC 7301 allows 1 to 255 bytes for each.
pub(super) fn protocols(input: Input<'_>, value: &str) -> Result<Vec<Vec<u8>>, EndpointError> {
    let one = |name| {
        let protocol = input.decode(name)?;
        match protocol.len() {
            1..=255 => Ok(protocol),
            n => Err(input.error(
                format!("a protocol of {n} bytes in alpn={value}"),
                "write names, such as alpn=h2,echo/1",
            )),
        }
    };
    value.split(',').map(one).collect()
}

/// Writes the options, the first after a `?`, and returns the separator for the next one.
/// Certificates that don't come from files are omitted.
pub(super) fn write(f: &mut fmt::Formatter<'_>, tls: &TlsConfig) -> Result<char, fmt::Error> {
    let mut sign = '?';
    let mut option = |f: &mut fmt::Formatter<'_>, name: &str, path: &Path| {
        write!(f, "{sign}{name}=")?;
        sign = '&';
        write_value(f, path.as_os_str().as_bytes())
    };
    match &tls.source {
        CertSource::Files { cert, key } => {
            option(f, "cert", cert)?;
            option(f, "key", key)?;
        }
        CertSource::Folder(path) => option(f, "certs", path)?,
        CertSource::Pem { .. } | CertSource::Rustls(_) | CertSource::Made(_) => {}
    }
    if let Some(path) = &tls.client_ca {
        option(f, "client-ca", path)?;
    }
    if tls.client_optional {
        option(f, "client-cert", Path::new("optional"))?;
    }
    if let Some(path) = &tls.crl {
        option(f, "crl", path)?;
    }
    if tls.tickets {
        option(f, "tickets", Path::new("true"))?;
    }
    if tls.accepts_plain {
        option(f, "plain", Path::new("true"))?;
    }
    for (i, protocol) in tls.alpn.iter().enumerate() {
        if i == 0 {
            write!(f, "{sign}alpn=")?;
            sign = '&';
        } else {
            f.write_str(",")?;
        }
        write_value(f, protocol)?;
    }
    Ok(sign)
}

/// Writes bytes so that they can be parsed again and are readable.
pub(super) fn write_value(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    percent::write(f, bytes, &['&', ','])
}
