//! What a mail server says, and when: RFC 5321, with the extensions its EHLO names.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use ropewalk::{CodecError, Error, ErrorKind, Result, Session, TlsConfig};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::codec::{Frame, Smtp};
use super::command::{Command, parse};
use super::maildir::{Draft, Maildir};

/// What is said to a client: a code, an extended one (RFC 3463), and a text for people.
type Answer = Cow<'static, str>;

/// RFC 5321 wants room for 100.
const MAX_RECIPIENTS: usize = 100;
/// What a client may say without a mail coming of it.
const MAX_COMMANDS: u32 = 500;
/// All the data of a mail has come by then, however the bytes are spread.
const DATA_DEADLINE: Duration = Duration::from_secs(60 * 60);

const TOO_LARGE: &str = "552 5.3.4 the mail is too large";
const DRAINING: &str = "421 4.3.2 shutting down, come back later";

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Config {
    /// Our host's.
    pub(crate) name: String,
    /// Whom mail is taken for; everybody, if there are none.
    pub(crate) domains: Vec<String>,
    pub(crate) max_size: u64,
    pub(crate) tls: TlsConfig,
    pub(crate) maildir: Arc<Maildir>,
}

struct Receiver {
    s: Session<Smtp>,
    config: Arc<Config>,
    /// Who the client says it is, and whether it said so by EHLO.
    hello: Option<(String, bool)>,
    envelope: Option<Envelope>,
    /// Since the last mail.
    commands: u32,
}

struct Envelope {
    from: String,
    to: Vec<String>,
}

/// One client, from the greeting to the last word.
pub(crate) async fn smtp(s: Session<Smtp>, config: Arc<Config>) -> Result {
    let mut receiver = Receiver { s, config, hello: None, envelope: None, commands: 0 };
    let result = receiver.converse().await;
    if let Some(last) = result.as_ref().err().and_then(farewell) {
        receiver.s.reply(last)?;
    }
    result
}

/// What may still be said to a client by whose fault the connection ends.
fn farewell(error: &Error) -> Option<&'static str> {
    if error.is_read_timeout() || error.downcast_ref::<Elapsed>().is_some() {
        return Some("421 4.4.2 that took too long");
    }
    match error.downcast_ref().map(CodecError::kind) {
        Some(ErrorKind::Parse(_)) => Some("554 5.6.0 a CR or LF by itself: where this mail ends is anyone's guess"),
        _ => None,
    }
}

impl Receiver {
    async fn converse(&mut self) -> Result {
        self.s.reply(format!("220 {} ESMTP", self.config.name))?;
        loop {
            let answer = match self.s.next().await {
                Ok(Some(Frame::Command(line))) => match parse(&line) {
                    Ok(Command::Quit) => return self.s.reply("221 2.0.0 bye"),
                    Ok(command) => self.obey(command).await?,
                    Err(refusal) => Some(refusal.into()),
                },
                // Data was asked for, and is read, by `data` only.
                Ok(Some(Frame::Data(_) | Frame::End)) => None,
                Ok(None) if self.s.is_draining() => return self.s.reply(DRAINING),
                Ok(None) => return Ok(()),
                Err(error) if error.is_recoverable() => Some("500 5.5.2 line too long".into()),
                Err(error) => return Err(error),
            };
            if let Some(answer) = answer {
                self.s.reply(&*answer)?;
            }
            self.commands += 1;
            if self.commands > MAX_COMMANDS {
                return self.s.reply("421 4.7.0 that is a lot of commands for no mail");
            }
        }
    }

    /// Does it, and gives the answer that has yet to be said.
    async fn obey(&mut self, command: Command) -> Result<Option<Answer>> {
        let answer = match command {
            Command::Hello { name, extended } => return self.hello(name, extended).map(|()| None),
            Command::Mail { from, size } => self.mail(from, size),
            Command::Rcpt { to } => self.recipient(to),
            Command::Data => return self.data().await,
            Command::StartTls if self.s.tls().is_some() => "503 5.5.1 it is encrypted already",
            Command::StartTls => {
                self.s.reply("220 2.0.0 go ahead")?;
                // What came behind the command in plaintext refuses it, and ends the connection.
                self.s.upgrade_tls(&self.config.tls).await?;
                // All that is known is from plaintext (RFC 3207, 4.2).
                (self.hello, self.envelope) = (None, None);
                return Ok(None);
            }
            Command::Reset => {
                self.envelope = None;
                "250 2.0.0 forgotten"
            }
            Command::Verify => "252 2.1.5 send some mail, and see",
            Command::Noop | Command::Quit => "250 2.0.0 ok",
        };
        Ok(Some(answer.into()))
    }

    fn hello(&mut self, name: String, extended: bool) -> Result {
        self.envelope = None;
        self.hello = Some((name, extended));
        let Config { name, max_size, .. } = &*self.config;
        if !extended {
            return self.s.reply(format!("250 {name}"));
        }
        self.s.reply(format!("250-{name}"))?;
        self.s.reply(format!("250-SIZE {max_size}"))?;
        if self.s.tls().is_none() {
            self.s.reply("250-STARTTLS")?;
        }
        ["250-PIPELINING", "250-8BITMIME", "250 ENHANCEDSTATUSCODES"]
            .into_iter()
            .try_for_each(|line| self.s.reply(line))
    }

    fn mail(&mut self, from: String, size: Option<u64>) -> &'static str {
        if self.hello.is_none() {
            return "503 5.5.1 say EHLO or HELO first";
        }
        if self.envelope.is_some() {
            return "503 5.5.1 there is a mail under way";
        }
        if size.is_some_and(|size| size > self.config.max_size) {
            return TOO_LARGE;
        }
        self.envelope = Some(Envelope { from, to: Vec::new() });
        "250 2.1.0 ok"
    }

    fn recipient(&mut self, to: String) -> &'static str {
        let Some(envelope) = &mut self.envelope else { return "503 5.5.1 say MAIL first" };
        if envelope.to.len() >= MAX_RECIPIENTS {
            return "452 4.5.3 too many recipients";
        }
        let ours = |domain: &str| self.config.domains.iter().any(|ours| ours.eq_ignore_ascii_case(domain));
        match to.rsplit_once('@') {
            Some((_, domain)) if !self.config.domains.is_empty() && !ours(domain) => "550 5.7.1 not one of ours",
            _ => {
                envelope.to.push(to);
                "250 2.1.5 ok"
            }
        }
    }

    /// A mail; `None` if the connection has ended before it did.
    async fn data(&mut self) -> Result<Option<Answer>> {
        let Some(envelope) = self.envelope.take_if(|envelope| !envelope.to.is_empty()) else {
            let no_mail = self.envelope.is_none();
            let refusal = if no_mail { "503 5.5.1 say MAIL and RCPT first" } else { "554 5.5.1 no valid recipients" };
            return Ok(Some(refusal.into()));
        };
        let mut draft = self.config.maildir.draft();
        let id = draft.name().to_owned();
        draft.write(self.trace(&envelope, &id)?.as_bytes()).await?;
        self.s.reply("354 end with a dot on a line of its own")?;
        self.s.codec_mut()?.expect_data();
        let mail = match timeout(DATA_DEADLINE, receive(&mut self.s, draft, self.config.max_size)).await?? {
            Some(Ok(draft)) => self.s.during(draft.deliver()).await?.map_err(|error| in_trouble(&error)),
            Some(Err(refusal)) => Err(refusal),
            None => return Ok(None),
        };
        Ok(Some(match mail {
            Ok(()) => {
                self.commands = 0;
                format!("250 2.0.0 kept as {id}").into()
            }
            Err(refusal) => refusal.into(),
        }))
    }

    /// The headers that say how the mail came here (RFC 5321, 4.4).
    fn trace(&self, envelope: &Envelope, id: &str) -> Result<String> {
        let (client, extended) = self.hello.as_ref().map_or(("unknown", false), |(name, extended)| (name, *extended));
        let with = match (extended, self.s.tls()) {
            (false, _) => "SMTP",
            (true, None) => "ESMTP",
            (true, Some(_)) => "ESMTPS",
        };
        let to: String = envelope.to.iter().map(|to| format!("Delivered-To: {to}\r\n")).collect();
        let (peer, name, date) = (self.s.peer(), &self.config.name, OffsetDateTime::now_utc().format(&Rfc2822)?);
        Ok(format!(
            "Return-Path: <{}>\r\n{to}Received: from {client} ({peer})\r\n\tby {name} with {with} id {id};\r\n\t{date}\r\n",
            envelope.from
        ))
    }
}

/// Reads a mail to its end, whatever becomes of it: the mail, or why it is none. `None` if there is no end.
async fn receive(s: &mut Session<Smtp>, draft: Draft, max: u64) -> Result<Option<Result<Draft, &'static str>>> {
    let (mut mail, mut size) = (Ok(draft), 0);
    while let Some(frame) = s.next().await? {
        let Frame::Data(bytes) = frame else { return Ok(Some(mail)) };
        size += bytes.len() as u64;
        let Ok(draft) = &mut mail else { continue };
        if size > max {
            mail = Err(TOO_LARGE);
        } else if let Err(error) = s.during(draft.write(&bytes)).await? {
            mail = Err(in_trouble(&error));
        }
    }
    Ok(None)
}

/// What is said when a mail can't be kept; it may come again.
pub(crate) fn in_trouble(error: &io::Error) -> &'static str {
    tracing::error!(%error, "a mail can't be kept");
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "452 4.3.1 no room",
        _ => "451 4.3.0 we are in trouble, come back later",
    }
}
