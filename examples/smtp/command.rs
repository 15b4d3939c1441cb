//! Command lines to commands, or to what refuses them.

/// What a client asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Hello {
        name: String,
        extended: bool,
    },
    /// From whom, empty for a bounce, and how large the mail will be.
    Mail {
        from: String,
        size: Option<u64>,
    },
    Rcpt {
        to: String,
    },
    Data,
    Reset,
    Noop,
    Verify,
    StartTls,
    Quit,
}

type Result<T> = std::result::Result<T, &'static str>;

const UNKNOWN: &str = "500 5.5.2 command not recognized";
const NO_ARGUMENT: &str = "501 5.5.4 it takes no argument";
const BAD_NAME: &str = "501 5.5.4 a host's name, or an address in brackets, is needed";
const BAD_SENDER: &str = "501 5.1.7 FROM:<local@domain> or FROM:<> is needed";
const BAD_RECIPIENT: &str = "501 5.1.3 TO:<local@domain> is needed";
const BAD_PARAMETER: &str = "501 5.5.4 bad value of a parameter";
const UNKNOWN_PARAMETER: &str = "555 5.5.4 parameter not recognized";
const NOT_IMPLEMENTED: &str = "502 5.5.1 not implemented here";

/// What fails has its answer.
pub(crate) fn parse(line: &[u8]) -> Result<Command> {
    // Parts of it will stand in the headers of a mail. A lone CR or LF must not come that far.
    if !line.iter().all(|byte| (b' '..=b'~').contains(byte)) {
        return Err("500 5.5.2 printable ASCII and CR LF only");
    }
    let line = std::str::from_utf8(line).map_err(|_| UNKNOWN)?.trim_end();
    let (verb, argument) = line.split_once(' ').unwrap_or((line, ""));
    let alone = |command| if argument.is_empty() { Ok(command) } else { Err(NO_ARGUMENT) };
    match verb.to_ascii_uppercase().as_str() {
        "EHLO" => hello(argument, true),
        "HELO" => hello(argument, false),
        "MAIL" => mail(argument),
        "RCPT" => recipient(argument),
        "DATA" => alone(Command::Data),
        "RSET" => alone(Command::Reset),
        "NOOP" => Ok(Command::Noop),
        "VRFY" if argument.is_empty() => Err("501 5.5.4 whom?"),
        "VRFY" => Ok(Command::Verify),
        "STARTTLS" => alone(Command::StartTls),
        "QUIT" => alone(Command::Quit),
        "AUTH" | "BDAT" | "ETRN" | "EXPN" | "HELP" | "TURN" => Err(NOT_IMPLEMENTED),
        _ => Err(UNKNOWN),
    }
}

fn hello(name: &str, extended: bool) -> Result<Command> {
    let is_well = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    if name.is_empty() || name.len() > 255 || !name.chars().all(is_well) {
        return Err(BAD_NAME);
    }
    Ok(Command::Hello { name: name.to_owned(), extended })
}

fn mail(argument: &str) -> Result<Command> {
    let (from, parameters) = path(argument, "FROM:").ok_or(BAD_SENDER)?;
    if !from.is_empty() && !is_mailbox(from) {
        return Err(BAD_SENDER);
    }
    let mut size = None;
    for parameter in parameters.split_ascii_whitespace() {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match name.to_ascii_uppercase().as_str() {
            "SIZE" => size = Some(value.parse().map_err(|_| BAD_PARAMETER)?),
            "BODY" if ["7BIT", "8BITMIME"].iter().any(|body| value.eq_ignore_ascii_case(body)) => {}
            "BODY" => return Err(BAD_PARAMETER),
            _ => return Err(UNKNOWN_PARAMETER),
        }
    }
    Ok(Command::Mail { from: from.to_owned(), size })
}

fn recipient(argument: &str) -> Result<Command> {
    let (to, parameters) = path(argument, "TO:").ok_or(BAD_RECIPIENT)?;
    if !is_mailbox(to) && !to.eq_ignore_ascii_case("postmaster") {
        return Err(BAD_RECIPIENT);
    }
    if parameters.is_empty() { Ok(Command::Rcpt { to: to.to_owned() }) } else { Err(UNKNOWN_PARAMETER) }
}

/// The mailbox of `FROM:<mailbox>`, and the parameters behind it.
fn path<'a>(argument: &'a str, keyword: &str) -> Option<(&'a str, &'a str)> {
    let (start, rest) = argument.split_at_checked(keyword.len())?;
    // Many clients put a blank there, and mean well.
    let path = rest.trim_start().strip_prefix('<').filter(|_| start.eq_ignore_ascii_case(keyword))?;
    let (mailbox, parameters) = path.split_at(end_of(path, '>')?);
    let parameters = &parameters[1..];
    if !parameters.is_empty() && !parameters.starts_with(' ') {
        return None;
    }
    // A source route (`@relay,@other:`) is ignored, as RFC 5321, appendix C, says.
    let mailbox = if mailbox.starts_with('@') { mailbox.split_once(':')?.1 } else { mailbox };
    Some((mailbox, parameters.trim_start()))
}

/// Where the first `end` outside quotes is.
fn end_of(text: &str, end: char) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    text.find(|c| {
        let literal = std::mem::take(&mut escaped);
        match c {
            _ if literal => {}
            '\\' => escaped = quoted,
            '"' => quoted = !quoted,
            _ => return c == end && !quoted,
        }
        false
    })
}

/// Whether this is `local@domain`, of the lengths RFC 5321, 4.5.3.1, allows.
fn is_mailbox(text: &str) -> bool {
    let Some((local, domain)) = end_of(text, '@').map(|at| (&text[..at], &text[at + 1..])) else { return false };
    let is_atom = |atom: &str| !atom.is_empty() && !atom.contains(|c| " \"(),:;<>@[\\]".contains(c));
    let of_domain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    (is_quoted(local) || local.split('.').all(is_atom))
        && local.len() <= 64
        && !domain.is_empty()
        && text.len() <= 254
        && domain.chars().all(of_domain)
}

fn is_quoted(local: &str) -> bool {
    let Some(inner) = local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else { return false };
    let mut escaped = false;
    let sound = inner.chars().all(|c| {
        let literal = std::mem::take(&mut escaped);
        escaped = c == '\\' && !literal;
        literal || c != '"'
    });
    sound && !escaped
}
