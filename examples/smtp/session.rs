//! What a mail server says, and when: RFC 5321, with the extensions its EHLO names.

use std::borrow::Cow;
use std::io;
use std::str;
use std::sync::Arc;
use std::time::Duration;

use email_address::{EmailAddress, Options};
use ropewalk::{Error, Lines, Result, Session, TlsConfig};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::maildir::{Draft, Maildir};

/// What is said to a client: a code, an extended one (RFC 3463), and a text for people.
type Answer = Cow<'static, str>;
/// The same where it is known, whether things go well or not.
type Outcome = std::result::Result<&'static str, &'static str>;

/// The longest line of a mail, in bytes with its CR. RFC 5321 wants 999; there are programs that break none.
const MAX_LINE: usize = 64 * 1024;
/// RFC 5321 wants room for 100.
const MAX_RECIPIENTS: usize = 100;
/// What a client may say without a mail coming of it.
const MAX_COMMANDS: u32 = 500;
/// All the data of a mail has come by then, however the bytes are spread.
const DATA_DEADLINE: Duration = Duration::from_secs(60 * 60);

const TOO_LARGE: &str = "552 5.3.4 the mail is too large";
const BAD_SENDER: &str = "501 5.1.7 FROM:<local@domain> or FROM:<> is needed";
const BAD_RECIPIENT: &str = "501 5.1.3 TO:<local@domain> is needed";
const BAD_PARAMETER: &str = "501 5.5.4 bad value of a parameter";
const UNKNOWN_PARAMETER: &str = "555 5.5.4 parameter not recognized";

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Config {
    /// Our host's.
    pub(crate) name: String,
    /// Whom mail is taken for; everybody, if there are none.
    pub(crate) domains: Vec<String>,
    pub(crate) max_size: u64,
    pub(crate) tls: TlsConfig,
    pub(crate) maildir: Maildir,
}

struct Receiver {
    s: Session<Lines>,
    config: Arc<Config>,
    /// Who the client says it is, and whether it said so by EHLO.
    hello: Option<(String, bool)>,
    from: Option<String>,
    to: Vec<String>,
    /// Since the last mail.
    commands: u32,
}

/// Lines up to their LF: one that has no CR before it is known at once, and refused.
pub(crate) fn lines() -> Lines {
    Lines::lf().max(MAX_LINE).skip_too_long()
}

/// What is left of such a line. Others may take a CR or LF by itself for the end of a line, then of the mail, and what comes
/// behind it for a mail of its own (CVE-2023-51764).
fn text(line: &[u8]) -> Option<&[u8]> {
    line.strip_suffix(b"\r").filter(|text| !text.contains(&b'\r'))
}

fn is_quit(line: &[u8]) -> bool {
    text(line).is_some_and(|text| text.trim_ascii_end().eq_ignore_ascii_case(b"QUIT"))
}

/// One client, from the greeting to the last word.
pub(crate) async fn smtp(s: Session<Lines>, config: Arc<Config>) -> Result {
    let mut receiver = Receiver { s, config, hello: None, from: None, to: Vec::new(), commands: 0 };
    let result = receiver.converse().await;
    if result.as_ref().is_err_and(|error| error.is_read_timeout() || error.downcast_ref::<Elapsed>().is_some()) {
        receiver.say("421 4.4.2 that took too long")?;
    }
    result
}

impl Receiver {
    fn say(&mut self, answer: &str) -> Result {
        self.s.reply_raw(format!("{answer}\r\n"))
    }

    async fn converse(&mut self) -> Result {
        self.say(&format!("220 {} ESMTP", self.config.name))?;
        while self.commands < MAX_COMMANDS {
            self.commands += 1;
            let answer = match self.s.next().await {
                Ok(Some(line)) if is_quit(&line) => return self.say("221 2.0.0 bye"),
                Ok(Some(line)) => self.obey(&line).await?,
                Ok(None) if self.s.is_draining() => return self.say("421 4.3.2 shutting down, come back later"),
                Ok(None) => return Ok(()),
                Err(error) if error.is_recoverable() => Some("500 5.5.2 line too long".into()),
                Err(error) => return Err(error),
            };
            if let Some(answer) = answer {
                self.say(&answer)?;
            }
        }
        self.say("421 4.7.0 that is a lot of commands for no mail")
    }

    /// Does what a line says, and gives the answer that has yet to be said.
    async fn obey(&mut self, line: &[u8]) -> Result<Option<Answer>> {
        // Parts of it will stand in the headers of a mail.
        let line = text(line).filter(|text| text.iter().all(|byte| (b' '..=b'~').contains(byte)));
        let Some(line) = line.and_then(|text| str::from_utf8(text).ok()).map(str::trim_end) else {
            return Ok(Some("500 5.5.2 lines are printable ASCII and end with CR LF".into()));
        };
        let (verb, argument) = line.split_once(' ').unwrap_or((line, ""));
        let outcome = match (verb.to_ascii_uppercase().as_str(), argument) {
            ("EHLO", name) => return self.hello(name, true).map(Some),
            ("HELO", name) => return self.hello(name, false).map(Some),
            ("MAIL", argument) => self.mail(argument),
            ("RCPT", argument) => self.recipient(argument),
            ("DATA", "") => return self.data().await,
            ("RSET", "") => {
                self.from = None;
                Ok("250 2.0.0 forgotten")
            }
            ("NOOP", _) => Ok("250 2.0.0 ok"),
            ("VRFY", "") => Err("501 5.5.4 whom?"),
            ("VRFY", _) => Ok("252 2.1.5 send some mail, and see"),
            ("STARTTLS", "") if self.s.tls().is_some() => Err("503 5.5.1 it is encrypted already"),
            ("STARTTLS", "") => return self.start_tls().await.map(|()| None),
            ("DATA" | "RSET" | "STARTTLS" | "QUIT", _) => Err("501 5.5.4 it takes no argument"),
            ("AUTH" | "BDAT" | "ETRN" | "EXPN" | "HELP" | "TURN", _) => Err("502 5.5.1 not implemented here"),
            _ => Err("500 5.5.2 command not recognized"),
        };
        Ok(Some(outcome.unwrap_or_else(|refusal| refusal).into()))
    }

    async fn start_tls(&mut self) -> Result {
        self.say("220 2.0.0 go ahead")?;
        // What came behind the command in plaintext refuses it, and ends the connection.
        self.s.upgrade_tls(&self.config.tls).await?;
        // All that is known is from plaintext (RFC 3207, 4.2).
        (self.hello, self.from) = (None, None);
        Ok(())
    }

    fn hello(&mut self, client: &str, extended: bool) -> Result<Answer> {
        let is_host = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        if client.is_empty() || client.len() > 255 || !client.chars().all(is_host) {
            return Ok("501 5.5.4 a host's name, or an address in brackets, is needed".into());
        }
        (self.hello, self.from) = (Some((client.to_owned(), extended)), None);
        let Config { name, max_size, .. } = &*self.config;
        if !extended {
            return Ok(format!("250 {name}").into());
        }
        let tls = if self.s.tls().is_none() { "250-STARTTLS\r\n" } else { "" };
        let extensions =
            format!("250-SIZE {max_size}\r\n{tls}250-PIPELINING\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES");
        Ok(format!("250-{name}\r\n{extensions}").into())
    }

    fn mail(&mut self, argument: &str) -> Outcome {
        let path = path(argument, "FROM:").filter(|(from, _)| from.is_empty() || is_mailbox(from));
        let (from, parameters) = path.ok_or(BAD_SENDER)?;
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
        if self.hello.is_none() {
            return Err("503 5.5.1 say EHLO or HELO first");
        }
        if self.from.is_some() {
            return Err("503 5.5.1 there is a mail under way");
        }
        (self.from, self.to) = (Some(from.to_owned()), Vec::new());
        Ok("250 2.1.0 ok")
    }

    fn recipient(&mut self, argument: &str) -> Outcome {
        let is_postmaster = |to: &str| to.eq_ignore_ascii_case("postmaster");
        let path = path(argument, "TO:").filter(|(to, _)| is_mailbox(to) || is_postmaster(to));
        let (to, parameters) = path.ok_or(BAD_RECIPIENT)?;
        let domains = &self.config.domains;
        let is_ours = |(_, domain): (_, &str)| domains.iter().any(|ours| ours.eq_ignore_ascii_case(domain));
        if !parameters.is_empty() {
            return Err(UNKNOWN_PARAMETER);
        }
        if self.from.is_none() {
            return Err("503 5.5.1 say MAIL first");
        }
        if self.to.len() >= MAX_RECIPIENTS {
            return Err("452 4.5.3 too many recipients");
        }
        if !domains.is_empty() && !to.rsplit_once('@').is_none_or(is_ours) {
            return Err("550 5.7.1 not one of ours");
        }
        self.to.push(to.to_owned());
        Ok("250 2.1.5 ok")
    }

    /// A mail; `None` if the connection has ended before it did.
    async fn data(&mut self) -> Result<Option<Answer>> {
        let Some(from) = self.from.take_if(|_| !self.to.is_empty()) else {
            let no_mail = self.from.is_none();
            let refusal = if no_mail { "503 5.5.1 say MAIL and RCPT first" } else { "554 5.5.1 no valid recipients" };
            return Ok(Some(refusal.into()));
        };
        self.say("354 end with a dot on a line of its own")?;
        let id = self.config.maildir.unique_name();
        let head = self.head(&from, &id)?;
        let kept = match timeout(DATA_DEADLINE, self.receive(&head)).await?? {
            Some(Ok(draft)) => self.s.during(draft.deliver(&id)).await?.map_err(|error| in_trouble(&error)),
            Some(Err(refusal)) => Err(refusal),
            None => return Ok(None),
        };
        Ok(Some(match kept {
            Ok(()) => {
                self.commands = 0;
                format!("250 2.0.0 kept as {id}").into()
            }
            Err(refusal) => refusal.into(),
        }))
    }

    /// The headers that say how the mail came here (RFC 5321, 4.4).
    fn head(&self, from: &str, id: &str) -> Result<String> {
        let (client, extended) = self.hello.as_ref().map_or(("unknown", false), |(name, extended)| (name, *extended));
        let with = match (extended, self.s.tls()) {
            (false, _) => "SMTP",
            (true, None) => "ESMTP",
            (true, Some(_)) => "ESMTPS",
        };
        let to: String = self.to.iter().map(|to| format!("Delivered-To: {to}\r\n")).collect();
        let (peer, name, date) = (self.s.peer(), &self.config.name, OffsetDateTime::now_utc().format(&Rfc2822)?);
        Ok(format!(
            "Return-Path: <{from}>\r\n{to}Received: from {client} ({peer})\r\n\tby {name} with {with} id {id};\r\n\t{date}\r\n"
        ))
    }

    /// Reads a mail to its end, whatever becomes of it: the mail, or why it is none. `None` if there is no end.
    async fn receive(&mut self, head: &str) -> Result<Option<std::result::Result<Draft, &'static str>>> {
        let draft = self.s.during(self.config.maildir.draft(head)).await?;
        let (mut mail, mut size) = (draft.map_err(|error| in_trouble(&error)), 0);
        loop {
            let line = match self.s.next().await {
                Ok(Some(line)) => line,
                Ok(None) => return Ok(None),
                Err(error) if error.is_recoverable() => {
                    mail = Err("552 5.3.4 a line of it is too long");
                    continue;
                }
                Err(error) => return Err(error),
            };
            let Some(line) = text(&line) else {
                self.say("554 5.6.0 a CR or LF by itself: where this mail ends is anyone's guess")?;
                return Err(Error::other("a CR or LF by itself"));
            };
            if line == b"." {
                return Ok(Some(mail));
            }
            let line = line.strip_prefix(b".").unwrap_or(line);
            size += line.len() as u64 + 2;
            if size > self.config.max_size {
                mail = Err(TOO_LARGE);
            } else if let Ok(draft) = &mut mail
                && let Err(error) = self.s.during(draft.write(line)).await?
            {
                mail = Err(in_trouble(&error));
            }
        }
    }
}

/// The mailbox of `FROM:<mailbox>`, and the parameters behind it.
fn path<'a>(argument: &'a str, keyword: &str) -> Option<(&'a str, &'a str)> {
    let (start, rest) = argument.split_at_checked(keyword.len())?;
    // Many clients put a blank there, and mean well.
    let (mailbox, parameters) = rest.trim_start().strip_prefix('<')?.rsplit_once('>')?;
    let is_well = start.eq_ignore_ascii_case(keyword) && (parameters.is_empty() || parameters.starts_with(' '));
    // A source route (`@relay,@other:`) is ignored, as RFC 5321, appendix C, says.
    let mailbox = if mailbox.starts_with('@') { mailbox.split_once(':')?.1 } else { mailbox };
    is_well.then_some((mailbox, parameters))
}

fn is_mailbox(text: &str) -> bool {
    EmailAddress::parse_with_options(text, Options::default().without_display_text()).is_ok()
}

/// What is said when a mail can't be kept; it may come again.
pub(crate) fn in_trouble(error: &io::Error) -> &'static str {
    tracing::error!(%error, "a mail can't be kept");
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "452 4.3.1 no room",
        _ => "451 4.3.0 we are in trouble, come back later",
    }
}
