//! The names in a peer's certificate (feature `x509`).

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::{Escaped, Peer};

/// The names in the certificate of a peer: what a server that requires certificates (mutual TLS)
/// knows its peers by.
///
/// Only a certificate that the server has verified gets here; see [`Peer::certificates`]. An
/// [`AccessLayer`](crate::AccessLayer) stores it among the values of the connection, for
/// [`ConnectionInfo::get`](crate::ConnectionInfo::get), and admits peers by it.
///
/// ```
/// use ropewalk_middleware::{ConnectionInfo, Identity};
///
/// fn may_write(connection: &ConnectionInfo) -> bool {
///     let identity = connection.get::<Identity>();
///     identity.is_some_and(|identity| identity.spiffe_id() == Some("spiffe://example.org/writer"))
/// }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    common_name: Option<String>,
    dns_names: Vec<String>,
    uris: Vec<String>,
    emails: Vec<String>,
    ips: Vec<IpAddr>,
}

impl Identity {
    /// The names in the peer's own certificate; `None` without one, and if it can't be read.
    pub fn of(peer: &Peer) -> Option<Self> {
        Self::from_der(peer.certificates().first()?).ok()
    }

    /// The names in a certificate.
    ///
    /// # Errors
    ///
    /// The bytes are not a certificate in DER.
    pub fn from_der(der: &[u8]) -> Result<Self, IdentityError> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| IdentityError(()))?;
        let common_name = certificate.subject().iter_common_name().next();
        let common_name = common_name.and_then(|name| name.as_str().ok()).map(str::to_owned);
        let mut identity = Self { common_name, ..Self::default() };
        let names = certificate.subject_alternative_name().map_err(|_| IdentityError(()))?;
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::DNSName(name) => identity.dns_names.push(name.to_ascii_lowercase()),
                GeneralName::URI(uri) => identity.uris.push((*uri).to_owned()),
                GeneralName::RFC822Name(email) => identity.emails.push((*email).to_owned()),
                GeneralName::IPAddress(bytes) => identity.ips.extend(ip(bytes)),
                _ => {}
            }
        }
        Ok(identity)
    }

    /// The first common name of the subject (CN). Newer certificates have their names in the
    /// subject's alternative names.
    pub fn common_name(&self) -> Option<&str> {
        self.common_name.as_deref()
    }

    /// The DNS names (SAN), in lower case.
    pub fn dns_names(&self) -> &[String] {
        &self.dns_names
    }

    /// The URIs (SAN).
    pub fn uris(&self) -> &[String] {
        &self.uris
    }

    /// The e-mail addresses (SAN).
    pub fn emails(&self) -> &[String] {
        &self.emails
    }

    /// The IP addresses (SAN).
    pub fn ips(&self) -> &[IpAddr] {
        &self.ips
    }

    /// The SPIFFE ID: the only URI, if it begins with `spiffe://`. A certificate with several URIs
    /// has no SPIFFE ID, by that standard.
    pub fn spiffe_id(&self) -> Option<&str> {
        match &self.uris[..] {
            [uri] if uri.starts_with("spiffe://") => Some(uri),
            _ => None,
        }
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(Ipv4Addr::from).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(Ipv6Addr::from).map(IpAddr::from)).ok()
}

/// Bytes that are not a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdentityError(());

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this is not an X.509 certificate in DER")
    }
}

impl Error for IdentityError {}

/// A name that a certificate must have, for
/// [`AccessRules::identity`](crate::AccessRules::identity).
///
/// As text it is `cn=NAME`, `dns=NAME`, `email=ADDRESS`, `uri=URI` or `spiffe=ID`. A URI or ID that
/// ends with `/*` stands for all that begin with what is before the star. Names are compared as
/// they are, DNS names without regard to case; a `*` in a certificate's DNS name has no meaning
/// here.
///
/// ```
/// use ropewalk_middleware::IdentityRule;
///
/// # fn main() -> Result<(), ropewalk_middleware::identity::IdentityRuleError> {
/// let web: IdentityRule = "spiffe=spiffe://example.org/web/*".parse()?;
/// assert_eq!(web.to_string(), "spiffe=spiffe://example.org/web/*");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdentityRule {
    kind: NameKind,
    name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum NameKind {
    CommonName,
    Dns,
    Email,
    Uri,
    Spiffe,
}

/// The kinds by their words.
const KINDS: [(&str, NameKind); 5] = [
    ("cn", NameKind::CommonName),
    ("dns", NameKind::Dns),
    ("email", NameKind::Email),
    ("uri", NameKind::Uri),
    ("spiffe", NameKind::Spiffe),
];

impl IdentityRule {
    /// Whether a certificate has this name.
    pub fn matches(&self, identity: &Identity) -> bool {
        let fits = |name: &String| self.fits(name);
        match self.kind {
            NameKind::CommonName => identity.common_name.as_ref().is_some_and(fits),
            NameKind::Dns => identity.dns_names.iter().any(fits),
            NameKind::Email => identity.emails.iter().any(fits),
            NameKind::Uri => identity.uris.iter().any(fits),
            NameKind::Spiffe => identity.spiffe_id().is_some() && identity.uris.iter().any(fits),
        }
    }

    fn fits(&self, name: &str) -> bool {
        let is_uri = matches!(self.kind, NameKind::Uri | NameKind::Spiffe);
        match self.name.strip_suffix('*') {
            Some(begin) if is_uri && begin.ends_with('/') => {
                name.len() > begin.len() && name.starts_with(begin)
            }
            _ => name == self.name,
        }
    }
}

impl FromStr for IdentityRule {
    type Err = IdentityRuleError;

    fn from_str(text: &str) -> Result<Self, IdentityRuleError> {
        let error = || IdentityRuleError(text.to_owned());
        let (word, name) = text.split_once('=').ok_or_else(error)?;
        let (_, kind) = KINDS.into_iter().find(|(known, _)| *known == word).ok_or_else(error)?;
        let is_spiffe = kind != NameKind::Spiffe || name.starts_with("spiffe://");
        if name.is_empty() || !is_spiffe {
            return Err(error());
        }
        let name = if kind == NameKind::Dns { name.to_ascii_lowercase() } else { name.to_owned() };
        Ok(Self { kind, name })
    }
}

impl fmt::Display for IdentityRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word =
            KINDS.into_iter().find(|(_, kind)| *kind == self.kind).map_or("", |(word, _)| word);
        write!(f, "{word}={}", self.name)
    }
}

/// Text that is not an [`IdentityRule`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityRuleError(String);

impl fmt::Display for IdentityRuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = Escaped::new(self.0.as_bytes());
        write!(
            f,
            "{text} is not a name in a certificate: write cn=, dns=, email=, uri= or spiffe=spiffe://"
        )
    }
}

impl Error for IdentityRuleError {}
