//! Rust sources without their comments and strings, and where functions end.

use super::MAX_FUNCTION;

/// Blanks out comments, strings and characters, and keeps the lines.
pub(super) fn blank(text: &str) -> String {
    let mut rest = text;
    let mut code = String::with_capacity(text.len());
    while let Some(c) = rest.chars().next() {
        let in_word = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let hidden = match c {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => string(rest),
            'r' if !in_word || code.ends_with(['b', 'c']) => raw_string(rest),
            '\'' => character(rest),
            _ => 0,
        };
        let (skipped, after) = rest.split_at(hidden.max(c.len_utf8()));
        match hidden {
            0 => code.push(c),
            _ => code.extend(skipped.chars().map(|c| if c == '\n' { '\n' } else { ' ' })),
        }
        rest = after;
    }
    code
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    for (at, _) in text.match_indices(['/', '*']) {
        match text.get(at..at + 2) {
            Some("/*") => depth += 1,
            Some("*/") if depth == 1 => return at + 2,
            Some("*/") => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            _ => escaped = c == '\\' && !escaped,
        }
    }
    text.len()
}

/// The length of `r#"…"#`, or 0 if this isn't a raw string.
fn raw_string(text: &str) -> usize {
    let hashes = text[1..].len() - text[1..].trim_start_matches('#').len();
    if !text[1 + hashes..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    text[2 + hashes..].find(&end).map_or(text.len(), |at| 2 + hashes + at + end.len())
}

/// The length of a character, or 0 if this is a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => text[3..].find('\'').map_or(0, |at| at + 4),
        Some(_) => chars.next().filter(|&(_, c)| c == '\'').map_or(0, |(at, _)| at + 1),
        None => 0,
    }
}

/// The offset after the brace that closes the first one in `code`; `None` if a `;` comes first.
pub(super) fn body_end(code: &str) -> Option<usize> {
    let (mut brackets, mut braces) = (0_i32, 0_i32);
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets -= 1,
            ';' if brackets == 0 && braces == 0 => return None,
            '{' => braces += 1,
            '}' if braces == 1 => return Some(at + 1),
            '}' => braces -= 1,
            _ => {}
        }
    }
    None
}

/// The functions that are too long, as `name (lines)`.
pub(super) fn long_functions(code: &str) -> Vec<String> {
    let mut long = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let function = &code[at..];
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let lines = body_end(function).map_or(0, |end| function[..end].lines().count());
        if lines > MAX_FUNCTION {
            let name = function[3..].split(['(', '<']).next().unwrap_or_default();
            long.push(format!("{name} ({lines} lines)"));
        }
    }
    long
}
