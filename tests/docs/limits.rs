//! The book's tables of defaults: each names its constants, and has their values.

use std::time::Duration;

use super::{assert_none, read};

const KIB: u128 = 1024;

/// The value of a constant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    Time(Duration),
    Number(u128),
}

impl Value {
    /// The ways to write it.
    pub(super) fn texts(self) -> Vec<String> {
        match self {
            Self::Time(time) if time.subsec_millis() == 0 => vec![format!("{} s", time.as_secs())],
            Self::Time(time) => vec![format!("{} ms", time.as_millis())],
            Self::Number(n) => {
                let units = [("KiB", KIB), ("MiB", KIB * KIB), ("GiB", KIB * KIB * KIB)];
                let whole = units.into_iter().filter(|(_, unit)| n >= *unit && n % unit == 0);
                let thousands = (n >= 10_000).then(|| format!("{} {:03}", n / 1000, n % 1000));
                whole
                    .map(|(name, unit)| format!("{} {name}", n / unit))
                    .chain([n.to_string()])
                    .chain(thousands)
                    .collect()
            }
        }
    }
}

/// The value of an expression, as far as constants are written.
fn value(expression: &str) -> Option<Value> {
    let expression = expression.trim();
    if let Some(inner) = expression.strip_prefix("Some(").and_then(|rest| rest.strip_suffix(')')) {
        return value(inner);
    }
    let call =
        |name: &str| number(expression.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')')?);
    let time =
        call("Duration::from_secs").map(|n| n * 1000).or_else(|| call("Duration::from_millis"));
    match time {
        Some(millis) => Some(Value::Time(Duration::from_millis(u64::try_from(millis).ok()?))),
        None => number(expression).map(Value::Number),
    }
}

fn number(expression: &str) -> Option<u128> {
    if let Some((left, right)) = expression.split_once("<<") {
        return Some(number(left)? << number(right)?);
    }
    expression.split('*').try_fold(1_u128, |product, factor| {
        Some(product * factor.trim().replace('_', "").parse::<u128>().ok()?)
    })
}

/// The values of the constant, or else of the first field of that name that is given one.
pub(super) fn values(source: &str, name: &str) -> Option<Vec<Value>> {
    let of_constant = source.split(&format!("const {name}: ")).nth(1).and_then(|rest| {
        let (_, after) = rest.split_once(" = ")?;
        let expression = after.split(';').next()?;
        let list = expression.strip_prefix('[').and_then(|list| list.strip_suffix(']'));
        list.unwrap_or(expression).split(", ").map(value).collect()
    });
    let of_field = || {
        source.match_indices(&format!("{name}: ")).find_map(|(at, found)| {
            let is_word = !source[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            let expression = source[at + found.len()..].split([',', '}', ';', '\n']).next()?;
            value(expression).filter(|_| is_word).map(|value| vec![value])
        })
    };
    of_constant.or_else(of_field)
}

/// Whether a text has these words, and not as part of a longer number.
fn says(text: &str, words: &str) -> bool {
    text.match_indices(words).any(|(at, _)| {
        let digits = |c: char| c.is_ascii_digit();
        let before = text[..at].trim_end_matches(' ');
        let after = &text[at + words.len()..];
        !before.ends_with(digits) && !after.starts_with(|c: char| c.is_alphanumeric())
    })
}

/// What is wrong with a row: the constants of its last cell, and its default.
fn wrong(default: &str, constants: &str, source: impl Fn(&str) -> String) -> Vec<String> {
    let mut wrong = Vec::new();
    for file in constants.split("; ").filter(|file| !file.is_empty()) {
        let mut names = file.split('`').skip(1).step_by(2);
        let path = names.next().unwrap_or_default();
        let text = source(path);
        for name in names {
            let Some(found) = values(&text, name) else {
                wrong.push(format!("{path} has no constant {name}"));
                continue;
            };
            let missing = found
                .iter()
                .filter(|value| !value.texts().iter().any(|words| says(default, words)));
            wrong.extend(missing.map(|value| {
                format!("{path}: {name} is {}, not {default}", value.texts().join(" or "))
            }));
        }
    }
    wrong
}

/// The cells of the tables' rows: what, default, change, constants.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix('|'));
    rows.map(|row| row.split(" |").map(str::trim).collect())
        .filter(|row: &Vec<&str>| row[0] != "what")
        .collect()
}

#[test]
fn every_default_in_the_book_is_that_of_the_code() {
    let book = read("docs/src/limits.md");
    let rows = rows(&book);
    assert!(rows.len() > 50, "{} rows", rows.len());
    assert_none(rows.iter().flat_map(|row| {
        let [what, default, _, constants] = row[..] else {
            return vec![format!("not four cells: {row:?}")];
        };
        wrong(default, constants, read)
            .into_iter()
            .map(|wrong| format!("{what}: {wrong}"))
            .collect()
    }));
}

#[test]
fn a_default_that_has_changed_is_found() {
    let source = |_: &str| {
        let consts = "const A: Duration = Duration::from_secs(30);\n\
                      const B: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(250)];\n";
        format!("{consts}most_c: 1,\nc: usize,\nc: 16 * 1024,\n")
    };
    assert_eq!(wrong("30 s, or 20 ms and 250 ms", "`x`: `A`, `B`", source), [""; 0]);
    assert_eq!(wrong("16 KiB", "`x`: `c`", source), [""; 0]);
    assert_eq!(wrong("17 KiB", "`x`: `c`", source).len(), 1);
    assert_eq!(wrong("130 s", "`x`: `A`", source).len(), 1);
    assert_eq!(wrong("20 ms", "`x`: `B`", source).len(), 1);
    assert_eq!(wrong("1", "`x`: `D`", source), ["x has no constant D"]);
    assert!(Value::Number(10_000).texts().contains(&"10 000".to_owned()));
}
