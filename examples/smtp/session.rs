//! The dialogue of a mail server: RFC 5321, with the extensions that its EHLO names.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ropewalk::{Bytes, Error, Lines, Result, Session, SessionError, TlsConfig};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::time::timeout;

use super::maildir::{Draft, Maildir};

/// A result, or the error reply to the client: a code, an extended one (RFC 3463), and a text.
type Outcome<T = &'static str> = std::result::Result<T, &'static str>;

/// The longest line of a mail, in bytes with its CR. RFC 5321 wants 999; there are programs that never break a line.
const MAX_LINE: usize = 64 * 1024;
/// The longest address, in bytes. RFC 5321 wants room for 256; those made for one mail each are longer.
const MAX_MAILBOX: usize = 1024;
/// RFC 5321 wants room for 100.
const MAX_RECIPIENTS: usize = 100;
/// How many commands a client may send without sending a mail.
const MAX_COMMANDS: u32 = 500;
/// The time for all the data of a mail, however slowly its bytes arrive.
const DATA_DEADLINE: Duration = Duration::from_secs(60 * 60);
const TOO_LARGE: &str = "552 5.3.4 the mail is too large";
const BAD_PARAMETER: &str = "501 5.5.4 bad value of a parameter";
const UNKNOWN_PARAMETER: &str = "555 5.5.4 parameter not recognized";

/// The state that all connections share.
#[derive(Debug)]
pub(crate) struct Config {
    /// The name of this host.
    pub(crate) name: String,
    /// The domains whose mail is accepted; all mail if this is empty.
    pub(crate) domains: Vec<String>,
    pub(crate) max_size: u64,
    pub(crate) tls: TlsConfig,
    pub(crate) maildir: Maildir,
}

struct Receiver {
    s: Session<Lines>,
    config: Arc<Config>,
    /// The protocol by which it sends mails (RFC 5321, 4.4); known after its EHLO or HELO.
    client: Option<String>,
    from: Option<String>,
    to: Vec<String>,
    /// Commands since the last mail.
    commands: u32,
}

/// Lines up to their LF, so that an LF without a CR is noticed at once, and refused.
pub(crate) fn lines() -> Lines {
    Lines::lf().max(MAX_LINE).skip_too_long()
}

/// The error for such a line. Other servers may treat a single CR or LF as the end of a line, and so of the mail, and
/// the bytes after it as another mail (CVE-2023-51764).
fn text(line: &[u8]) -> Option<&[u8]> {
    line.strip_suffix(b"\r").filter(|text| !text.contains(&b'\r'))
}

/// Serves one client, from the greeting to the end.
pub(crate) async fn smtp(s: Session<Lines>, config: Arc<Config>) -> Result {
    let mut receiver = Receiver { s, config, client: None, from: None, to: Vec::new(), commands: 0 };
    let result = receiver.converse().await;
    if result.as_ref().is_err_and(Error::is_read_timeout) {
        receiver.say("421 4.4.2 that took too long")?;
    }
    result
}

impl Receiver {
    fn say(&mut self, answer: &str) -> Result {
        self.s.feed_raw(format!("{answer}\r\n"))
    }

    async fn converse(&mut self) -> Result {
        self.say(&format!("220 {} ESMTP", self.config.name))?;
        while self.commands < MAX_COMMANDS {
            self.commands += 1;
            let line = match self.s.next().await {
                Ok(Some(line)) => line,
                Ok(None) if self.s.is_draining() => return self.say("421 4.3.2 shutting down, come back later"),
                Ok(None) => return Ok(()),
                Err(error) if error.is_recoverable() => Bytes::new(),
                Err(error) => return Err(error),
            };
            match command(&line) {
                Some((verb, "")) if verb == "QUIT" => return self.say("221 2.0.0 bye"),
                // A browser's request, in whose body there may be commands.
                Some((_, argument)) if argument.rsplit(' ').next().is_some_and(|word| word.starts_with("HTTP/")) => {
                    return self.say("421 4.7.0 this is SMTP");
                }
                Some((verb, argument)) => self.obey(&verb, argument).await?,
                None => self.say("500 5.5.2 commands are printable ASCII, not that long, and end with CR LF")?,
            }
        }
        self.say("421 4.7.0 that is a lot of commands for no mail")
    }

    async fn obey(&mut self, verb: &str, argument: &str) -> Result {
        let outcome = match (verb, argument) {
            ("EHLO", client) => return self.hello(client, true),
            ("HELO", client) => return self.hello(client, false),
            ("STARTTLS", "") if self.s.tls().is_none() => return self.start_tls().await,
            ("STARTTLS", "") => Err("503 5.5.1 it is encrypted already"),
            ("MAIL", argument) => self.mail(argument),
            ("RCPT", argument) => self.recipient(argument),
            ("DATA", "") if self.to.is_empty() && self.from.is_some() => Err("554 5.5.1 no valid recipients"),
            ("DATA", "") => match self.from.take() {
                Some(from) => return self.data(&from).await,
                None => Err("503 5.5.1 say MAIL and RCPT first"),
            },
            ("RSET", "") => {
                self.from = None;
                Ok("250 2.0.0 forgotten")
            }
            ("NOOP", _) => Ok("250 2.0.0 ok"),
            ("HELP", _) => Ok("214 2.0.0 EHLO HELO MAIL RCPT DATA RSET NOOP VRFY HELP STARTTLS QUIT"),
            ("VRFY", "") => Err("501 5.5.4 a name is needed"),
            ("VRFY", _) => Ok("252 2.1.5 send some mail, and see"),
            ("DATA" | "RSET" | "STARTTLS" | "QUIT", _) => Err("501 5.5.4 it takes no argument"),
            ("AUTH" | "BDAT" | "ETRN" | "EXPN" | "TURN", _) => Err("502 5.5.1 not implemented here"),
            _ => Err("500 5.5.2 command not recognized"),
        };
        self.say(outcome.unwrap_or_else(|refusal| refusal))
    }

    async fn start_tls(&mut self) -> Result {
        self.say("220 2.0.0 go ahead")?;
        // If plaintext follows the command, the upgrade is refused and the connection ends.
        self.s.upgrade_tls(&self.config.tls).await?;
        // All that is known came in plaintext, and is discarded (RFC 3207, 4.2).
        (self.client, self.from) = (None, None);
        Ok(())
    }

    fn hello(&mut self, client: &str, extended: bool) -> Result {
        let is_host = |c: char| c.is_ascii_alphanumeric() || "-._:[]%".contains(c);
        if client.is_empty() || client.len() > 255 || !client.chars().all(is_host) {
            return self.say("501 5.5.4 a host's name, or an address in brackets, is needed");
        }
        let Config { name, max_size, .. } = &*self.config;
        let (with, tls) = match (extended, self.s.tls()) {
            (false, _) => ("SMTP", ""),
            (true, None) => ("ESMTP", "250-STARTTLS\r\n"),
            (true, Some(_)) => ("ESMTPS", ""),
        };
        let literal = self.s.peer().ip().map(|ip| match ip.to_canonical() {
            IpAddr::V4(v4) => format!(" ([{v4}])"),
            IpAddr::V6(v6) => format!(" ([IPv6:{v6}])"),
        });
        self.client = Some(format!("from {client}{}\r\n\tby {name} with {with}", literal.unwrap_or_default()));
        self.from = None;
        let extensions =
            format!("250-SIZE {max_size}\r\n{tls}250-PIPELINING\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES");
        let answer = if extended { format!("250-{name}\r\n{extensions}") } else { format!("250 {name}") };
        self.say(&answer)
    }

    fn mail(&mut self, argument: &str) -> Outcome {
        let path = path(argument, "FROM:").filter(|(from, _)| from.is_empty() || is_mailbox(from));
        let (from, parameters) = path.ok_or("501 5.1.7 FROM:<local@domain> or FROM:<> is needed")?;
        for parameter in parameters.to_ascii_uppercase().split_ascii_whitespace() {
            match parameter.split_once('=') {
                Some(("SIZE", size)) if size.parse::<u64>().map_err(|_| BAD_PARAMETER)? > self.config.max_size => {
                    return Err(TOO_LARGE);
                }
                Some(("SIZE", _) | ("BODY", "7BIT" | "8BITMIME")) => {}
                Some(("BODY", _)) => return Err(BAD_PARAMETER),
                _ => return Err(UNKNOWN_PARAMETER),
            }
        }
        match (&self.client, &self.from) {
            (None, _) => Err("503 5.5.1 say EHLO or HELO first"),
            (_, Some(_)) => Err("503 5.5.1 there is a mail under way"),
            _ => {
                (self.from, self.to) = (Some(from.to_owned()), Vec::new());
                Ok("250 2.1.0 ok")
            }
        }
    }

    fn recipient(&mut self, argument: &str) -> Outcome {
        let path = path(argument, "TO:").filter(|(to, _)| is_mailbox(to) || to.eq_ignore_ascii_case("postmaster"));
        let (to, parameters) = path.ok_or("501 5.1.3 TO:<local@domain> is needed")?;
        let domains = &self.config.domains;
        let is_ours = |(_, domain): (_, &str)| domains.iter().any(|ours| ours.eq_ignore_ascii_case(domain));
        match &self.from {
            _ if !parameters.is_empty() => Err(UNKNOWN_PARAMETER),
            None => Err("503 5.5.1 say MAIL first"),
            _ if self.to.len() >= MAX_RECIPIENTS => Err("452 4.5.3 too many recipients"),
            _ if !domains.is_empty() && !to.rsplit_once('@').is_none_or(is_ours) => Err("550 5.7.1 not one of ours"),
            _ => {
                self.to.push(to.to_owned());
                Ok("250 2.1.5 ok")
            }
        }
    }

    /// Receives a mail from this sender, and replies with the result, unless the connection ends before the mail does.
    async fn data(&mut self, from: &str) -> Result {
        self.say("354 end with a dot on a line of its own")?;
        let client = self.client.as_deref().unwrap_or_default();
        let to: String = self.to.iter().map(|to| format!("Delivered-To: {to}\r\n")).collect();
        let date = OffsetDateTime::now_utc().format(&Rfc2822)?;
        let draft = async {
            let mut draft = self.config.maildir.draft().await?;
            let head = format!("Return-Path: <{from}>\r\n{to}Received: {client} id {};\r\n\t{date}", draft.name);
            draft.write(head.as_bytes()).await.map(|()| draft)
        };
        let mut mail = self.s.during(draft).await?.map_err(|error| in_trouble(&error));
        let received = timeout(DATA_DEADLINE, self.receive(&mut mail)).await;
        let Some(is_broken) = received.map_err(|_| SessionError::FrameTimeout)?? else { return Ok(()) };
        let kept = match mail {
            Ok(draft) => self.s.during(draft.deliver()).await?.map_err(|error| in_trouble(&error)),
            Err(refusal) => Err(refusal),
        };
        self.commands = if kept.is_ok() { 0 } else { self.commands };
        self.say(&kept.map_or_else(str::to_owned, |name| format!("250 2.0.0 kept as {name}")))?;
        // The following bytes may still be part of the mail, and must not be executed as commands.
        if is_broken { Err(Error::other("a mail whose end is anyone's guess")) } else { Ok(()) }
    }

    /// Reads a mail to its end, even if it is refused: clients read no answer before they have sent everything. `None`
    /// if it has no end, and true if other servers might find another end.
    async fn receive(&mut self, mail: &mut Outcome<Draft>) -> Result<Option<bool>> {
        let (mut size, mut is_broken) = (0, false);
        loop {
            let line = match self.s.next().await {
                Ok(Some(line)) => line,
                Ok(None) => return Ok(None),
                Err(error) if error.is_recoverable() => {
                    // The end may have been an LF without a CR.
                    (*mail, is_broken) = (Err("552 5.3.4 a line of it is too long"), true);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let Some(line) = text(&line).filter(|_| !is_broken) else {
                if !is_broken {
                    (*mail, is_broken) = (Err("554 5.6.0 a CR or LF by itself: where it ends is anyone's guess"), true);
                }
                if line.split(|&byte| byte == b'\r').any(|part| part == b".") {
                    return Ok(Some(true));
                }
                continue;
            };
            if line == b"." {
                return Ok(Some(false));
            }
            let line = line.strip_prefix(b".").unwrap_or(line);
            size += line.len() as u64 + 2;
            if size > self.config.max_size {
                *mail = Err(TOO_LARGE);
            } else if let Ok(draft) = mail
                && let Err(error) = self.s.during(draft.write(line)).await?
            {
                *mail = Err(in_trouble(&error));
            }
        }
    }
}

/// The verb of a line, in capitals, and the rest, parts of which are written into the headers of a mail.
fn command(line: &[u8]) -> Option<(String, &str)> {
    let line = text(line).filter(|text| text.iter().all(|byte| (b' '..=b'~').contains(byte)))?;
    let line = str::from_utf8(line).ok()?.trim_end();
    let (verb, argument) = line.split_once(' ').unwrap_or((line, ""));
    Some((verb.to_ascii_uppercase(), argument))
}

/// The mailbox of `FROM:<mailbox>`, and the parameters after it.
fn path<'a>(argument: &'a str, keyword: &str) -> Option<(&'a str, &'a str)> {
    let (start, rest) = argument.split_at_checked(keyword.len())?;
    // Many clients put a blank there.
    let path = rest.trim_start().strip_prefix('<')?;
    // A quoted name and a parameter may contain brackets.
    let is_end = |&at: &usize| matches!(path.as_bytes().get(at + 1), None | Some(b' '));
    let (mailbox, parameters) = path.split_at(path.match_indices('>').map(|(at, _)| at).find(is_end)?);
    // A source route (`@relay,@other:`) is ignored, as RFC 5321, appendix C, says.
    let mailbox = if mailbox.starts_with('@') { mailbox.split_once(':')?.1 } else { mailbox };
    start.eq_ignore_ascii_case(keyword).then_some((mailbox, &parameters[1..]))
}

/// More than RFC 5321 allows: some providers have addresses with two dots in a row, or one at the end.
fn is_mailbox(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let is_local = match local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(quoted) => {
            let bare = quoted.replace(r"\\", "").replace(r#"\""#, "");
            !bare.contains('"') && !bare.ends_with('\\')
        }
        None => !local.is_empty() && !local.contains(|c: char| r#" ()<>[]:;@\,""#.contains(c)),
    };
    let is_label =
        |label: &str| !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    let is_domain = match domain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(literal) => !literal.is_empty() && literal.chars().all(|c| c.is_ascii_alphanumeric() || ".:-".contains(c)),
        None => domain.len() <= 255 && domain.split('.').all(is_label),
    };
    text.len() <= MAX_MAILBOX && is_local && is_domain
}

/// The reply when a mail can't be stored; the client may try again.
pub(crate) fn in_trouble(error: &io::Error) -> &'static str {
    tracing::error!(%error, "a mail can't be kept");
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "452 4.3.1 no room",
        _ => "451 4.3.0 we are in trouble, come back later",
    }
}
