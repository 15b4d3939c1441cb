//! Converts master files as people write them to the form that the parser accepts.

/// Types whose data are text, in which an `@` is an `@`.
const TEXTS: [&[u8]; 3] = [b"TXT", b"SPF", b"HINFO"];

/// A master file (RFC 1035, section 5) with its times in seconds (`1h30m` is 5400), with the origin's name in place of each
/// `@` behind a type, and with an end of its last line.
pub(crate) fn plain(file: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(file.len() + 1);
    let (mut origin, mut fields): (Vec<u8>, Vec<&[u8]>) = (Vec::new(), Vec::new());
    // Some editors begin a file with a byte order mark.
    let (mut rest, mut open) = (file.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(file), 0_u32);
    while let Some(first) = rest.first() {
        let (token, after) = rest.split_at(length(rest));
        rest = after;
        match first {
            b'(' => open += 1,
            b')' => open = open.saturating_sub(1),
            b'\n' if open == 0 => {
                if let [directive, name, ..] = fields[..]
                    && directive.eq_ignore_ascii_case(b"$ORIGIN")
                {
                    origin = absolute(name, &origin);
                }
                fields.clear();
            }
            // A blank at the start stands for the owner of the previous record.
            b' ' | b'\t' if fields.is_empty() => fields.push(b""),
            b' ' | b'\t' | b'\r' | b'\n' | b';' => {}
            _ => {
                plain.extend(replaced(token, &fields, &origin).as_deref().unwrap_or(token));
                fields.push(token);
                continue;
            }
        }
        plain.extend_from_slice(token);
    }
    plain.push(b'\n');
    plain
}

/// The length of the first token of a text: a comment, a quoted string, a blank, a parenthesis or a word.
fn length(text: &[u8]) -> usize {
    let until = |from: usize, is_end: fn(u8) -> bool| {
        let mut at = from;
        while let Some(&byte) = text.get(at).filter(|&&byte| !is_end(byte)) {
            at += if byte == b'\\' { 2 } else { 1 };
        }
        at.min(text.len())
    };
    match text[0] {
        b';' => text.iter().position(|&byte| byte == b'\n').unwrap_or(text.len()),
        b'"' => (until(1, |byte| byte == b'"') + 1).min(text.len()),
        b' ' | b'\t' | b'\r' | b'\n' | b'(' | b')' => 1,
        _ => until(0, |byte| b" \t\r\n();\"".contains(&byte)),
    }
}

/// The replacement of a word for the parser. `before` are the words before it in its record.
fn replaced(word: &[u8], fields: &[&[u8]], origin: &[u8]) -> Option<Vec<u8>> {
    let owner = fields.first()?;
    let is_class = |field: &[u8]| ["IN", "CH", "HS"].iter().any(|class| field.eq_ignore_ascii_case(class.as_bytes()));
    let is_before = |field: &&[u8]| is_class(field) || field.first().is_some_and(u8::is_ascii_digit);
    let behind = &fields[1 + fields[1..].iter().take_while(|field| is_before(field)).count()..];
    let seconds = || seconds(word).map(|n| n.to_string().into_bytes());
    match behind {
        _ if owner.starts_with(b"$") => seconds().filter(|_| owner.eq_ignore_ascii_case(b"$TTL")),
        // The data of a SOA record: two names, a number and four times.
        [rtype, _, _, ..] if rtype.eq_ignore_ascii_case(b"SOA") => seconds(),
        [rtype, ..] if word == b"@" && !TEXTS.iter().any(|text| text.eq_ignore_ascii_case(rtype)) => {
            Some(origin.to_vec()).filter(|origin| !origin.is_empty())
        }
        [] if word[0].is_ascii_digit() => seconds(),
        _ => None,
    }
}

fn absolute(name: &[u8], origin: &[u8]) -> Vec<u8> {
    match origin {
        _ if name.ends_with(b".") => name.to_vec(),
        b"." => [name, b"."].concat(),
        _ => [name, b".", origin].concat(),
    }
}

/// A time, if this is one: numbers of seconds, minutes, hours, days and weeks.
fn seconds(word: &[u8]) -> Option<u32> {
    let (mut total, mut number) = (0_u32, None::<u32>);
    for byte in word {
        let unit = match byte.to_ascii_lowercase() {
            digit @ b'0'..=b'9' => {
                number = Some(number.unwrap_or(0).checked_mul(10)?.checked_add(u32::from(digit - b'0'))?);
                continue;
            }
            b's' => 1,
            b'm' => 60,
            b'h' => 60 * 60,
            b'd' => 24 * 60 * 60,
            b'w' => 7 * 24 * 60 * 60,
            _ => return None,
        };
        total = total.checked_add(number.take()?.checked_mul(unit)?)?;
    }
    total.checked_add(number.unwrap_or(0))
}
