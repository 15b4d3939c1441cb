//! The options of sockets: `?backlog=64&mode=660`.

use std::io;

use super::input::Input;
use super::{Endpoint, EndpointError};
use crate::listener::path::PathAccess;

/// How many connections may wait to be accepted by default.
const BACKLOG: u32 = 1024;

/// The largest value that the system calls accept.
const MAX_BACKLOG: u32 = i32::MAX as u32;

/// The largest mode of a path.
const MAX_MODE: u32 = 0o777;

/// The options of an endpoint's sockets. Not every address accepts each of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SocketOptions {
    pub(super) backlog: Option<u32>,
    pub(super) v6_only: Option<bool>,
    pub(super) access: PathAccess,
}

impl Endpoint {
    /// How many connections may wait to be accepted: at least 1; the system may allow fewer. It is
    /// for sockets that this process opens itself; binding any other endpoint (an inherited socket,
    /// a listener made in code) with a backlog is an error.
    #[must_use]
    pub fn backlog(mut self, connections: u32) -> Self {
        self.options.backlog = Some(connections.clamp(1, MAX_BACKLOG));
        self
    }

    /// The permissions of a Unix socket's path, at most `0o777`. Binding any other endpoint with a
    /// mode is an error, as is binding with a larger one.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.options.access.mode = Some(mode);
        self
    }

    /// The user who owns a Unix socket's path, by name or number. Binding any other endpoint with a
    /// user is an error.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.options.access.user = Some(user.into());
        self
    }

    /// The group of a Unix socket's path, by name or number. Binding any other endpoint with a
    /// group is an error.
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.options.access.group = Some(group.into());
        self
    }

    /// Sets whether the socket of an IPv6 address accepts IPv6 only. Without this setting, `[::]`
    /// accepts IPv4 as well if that is the system's default (on Linux it is unless
    /// `net.ipv6.bindv6only` is set), but not if the same server has `0.0.0.0` on the same port.
    /// Binding any other endpoint with this setting is an error.
    ///
    /// ```
    /// use ropewalk::Endpoint;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let endpoint = Endpoint::tcp("[::]:8007".parse()?).v6_only(true);
    /// assert_eq!(endpoint.to_string(), "tcp:[::]:8007?v6only=true");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn v6_only(mut self, only: bool) -> Self {
        self.options.v6_only = Some(only);
        self
    }
}

impl SocketOptions {
    /// Sets an option whose name is known.
    pub(super) fn set(
        &mut self,
        input: Input<'_>,
        name: &str,
        value: &str,
    ) -> Result<(), EndpointError> {
        match name {
            "v6only" => set(input, &mut self.v6_only, name, boolean(input, name, value)?),
            "user" => set(input, &mut self.access.user, name, owner(input, name, value)?),
            "group" => set(input, &mut self.access.group, name, owner(input, name, value)?),
            "mode" => {
                let fix = "write an octal number up to 777, such as mode=660";
                let mode = number(value, 8, MAX_MODE)
                    .map_err(|fault| fault.of_option(input, name, value, fix))?;
                set(input, &mut self.access.mode, name, mode)
            }
            _ => {
                let fix = "write how many may wait, such as backlog=1024";
                let backlog = number(value, 10, MAX_BACKLOG)
                    .map_err(|fault| fault.of_option(input, name, value, fix))?;
                if backlog == 0 {
                    return Err(input.error("a backlog of 0 would accept no connections", fix));
                }
                set(input, &mut self.backlog, name, backlog)
            }
        }
    }

    /// The options that are set, as they are written in a string.
    pub(super) fn texts(&self) -> impl Iterator<Item = String> {
        let texts = [
            self.backlog.map(|backlog| format!("backlog={backlog}")),
            self.v6_only.map(|only| format!("v6only={only}")),
            self.access.mode.map(|mode| format!("mode={mode:o}")),
            self.access.user.as_ref().map(|user| format!("user={user}")),
            self.access.group.as_ref().map(|group| format!("group={group}")),
        ];
        texts.into_iter().flatten()
    }

    /// Checks that an address accepts those that are set: `known` are the names of its options.
    pub(super) fn check(&self, known: &[&str]) -> io::Result<()> {
        let text = if self.access != PathAccess::default() && !known.contains(&"mode") {
            "mode, user and group are for unix: endpoints with a path only"
        } else if self.access.mode.is_some_and(|mode| mode > MAX_MODE) {
            "a mode is at most 0o777"
        } else if self.v6_only.is_some() && !known.contains(&"v6only") {
            "v6only is for tcp: endpoints with an IPv6 address only"
        } else if self.backlog.is_some() && !known.contains(&"backlog") {
            "backlog is for sockets that this process opens itself"
        } else {
            return Ok(());
        };
        Err(io::Error::new(io::ErrorKind::InvalidInput, text))
    }

    /// How many connections may wait.
    pub(super) fn backlog_or_default(&self) -> u32 {
        self.backlog.unwrap_or(BACKLOG)
    }

    /// The same as the system calls take it.
    pub(super) fn system_backlog(&self) -> i32 {
        // It was clamped when it was set, so it fits.
        i32::try_from(self.backlog_or_default()).unwrap_or(i32::MAX)
    }
}

fn set<T>(
    input: Input<'_>,
    slot: &mut Option<T>,
    name: &str,
    value: T,
) -> Result<(), EndpointError> {
    match slot.replace(value) {
        Some(_) => Err(input.error(format!("the option {name} is given twice"), "keep one")),
        None => Ok(()),
    }
}

fn boolean(input: Input<'_>, name: &str, value: &str) -> Result<bool, EndpointError> {
    value.parse().map_err(|_| {
        input.error(format!("{value:?} is neither true nor false"), format!("write {name}=true"))
    })
}

/// A user or a group: a valid name, or a number.
fn owner(input: Input<'_>, option: &str, name: &str) -> Result<String, EndpointError> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '$');
    if name.is_empty() || !name.chars().all(is_part) {
        let problem = format!("{name:?} is not a {option}");
        return Err(
            input.error(problem, format!("write a name or a number, such as {option}=www-data"))
        );
    }
    Ok(name.to_owned())
}

/// Why a text is not a number.
pub(super) enum Number {
    None,
    Over,
}

impl Number {
    fn of_option(self, input: Input<'_>, name: &str, value: &str, fix: &str) -> EndpointError {
        match self {
            Self::Over => input.error(format!("{name} {value} is too large"), fix),
            Self::None => input.error(format!("{value:?} is not a {name}"), fix),
        }
    }
}

/// Parses a number that has only digits: no sign, no space.
pub(super) fn number(text: &str, base: u32, max: u32) -> Result<u32, Number> {
    if text.is_empty() || !text.chars().all(|c| c.is_digit(base)) {
        return Err(Number::None);
    }
    // All are digits, so a number that fails here is too large.
    u32::from_str_radix(text, base).ok().filter(|&n| n <= max).ok_or(Number::Over)
}
