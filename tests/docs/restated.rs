//! `tests/RESTATED.md`: defaults that are written a second time have the value of their constant.

use super::limits::values;
use super::{assert_none, read, sources};

/// A row of the table.
struct Restated<'a> {
    /// The file of the constant.
    file: &'a str,
    name: &'a str,
    /// The file that repeats its value, and the words there, with `{}` for the value.
    path: &'a str,
    words: &'a str,
}

fn row(line: &str) -> Option<Restated<'_>> {
    let mut cells = line.strip_prefix("| `")?.strip_suffix(" |")?.splitn(3, " | ");
    let (file, name) = cells.next()?.split_once("`: `")?;
    let path = cells.next()?.trim_matches('`');
    Some(Restated { file, name: name.trim_end_matches('`'), path, words: cells.next()? })
}

fn rows(table: &str) -> Vec<Restated<'_>> {
    table.lines().filter_map(row).collect()
}

/// The prose of a file on one line: of a source file its comments.
fn prose(path: &str, text: &str) -> String {
    let comment = |line: &str| {
        let line = line.trim_start().strip_prefix("//")?.trim_start_matches(['/', '!']);
        Some(line.trim().to_owned())
    };
    let lines: Vec<String> = if path.ends_with(".rs") {
        text.lines().filter_map(comment).collect()
    } else {
        text.lines().map(|line| line.trim().to_owned()).collect()
    };
    lines.join(" ")
}

/// What is wrong with a row: its place does not have the value of the constant.
fn outdated(row: &Restated<'_>, source: impl Fn(&str) -> String) -> Option<String> {
    let Restated { file, name, path, words } = row;
    let found = values(&source(file), name).unwrap_or_default();
    let [value] = found[..] else {
        return Some(format!("{file} has no constant {name} with one value"));
    };
    let prose = prose(path, &source(path));
    let says = |text: &String| prose.contains(&words.replace("{}", text));
    if words.contains("{}") && value.texts().iter().any(says) {
        return None;
    }
    let value = value.texts().join(" or ");
    Some(format!("{path} does not say \"{words}\" with {value}, as {file}: {name} has it"))
}

/// The defaults that a text gives: some words, a number, and "by default".
fn defaults(prose: &str) -> Vec<&str> {
    const END: &str = " by default";
    let mut found = Vec::new();
    for (at, _) in prose.match_indices(END) {
        let number = prose[..at].trim_end_matches("KiB").trim_end_matches("MiB");
        let number = number.trim_end_matches(" ms").trim_end_matches(" s").trim_end();
        let words = number.trim_end_matches(|c: char| c.is_ascii_digit());
        if words.len() < number.len() && number[words.len()..] != *"0" {
            let from = prose[..at].char_indices().rev().nth(24).map_or(0, |(from, _)| from);
            found.push(&prose[from..at + END.len()]);
        }
    }
    found
}

/// Whether a row has these words of this file.
fn is_listed(rows: &[Restated<'_>], path: &str, found: &str) -> bool {
    rows.iter().filter(|row| row.path == path).any(|row| {
        let Some((before, " by default")) = row.words.split_once("{}") else { return false };
        // `found` begins somewhere in the words before the number.
        let last = before.char_indices().rev().nth(5).map_or(0, |(last, _)| last);
        found.contains(before[last..].trim())
    })
}

#[test]
fn a_default_that_is_written_twice_is_the_same_in_both_places() {
    let table = read("tests/RESTATED.md");
    let rows = rows(&table);
    assert!(rows.len() > 80, "{} rows", rows.len());
    assert_none(rows.iter().filter_map(|row| outdated(row, read)));
}

#[test]
fn every_default_in_the_documentation_of_the_code_is_compared_with_its_constant() {
    let table = read("tests/RESTATED.md");
    let rows = rows(&table);
    let shipped = sources(&["src", "middleware/src", "codecs/src", "admin/src"]);
    assert_none(shipped.iter().flat_map(|(path, text)| {
        let prose = prose(path, text);
        let missing = defaults(&prose).into_iter().filter(|found| !is_listed(&rows, path, found));
        missing.map(|found| format!("{path}: …{found}")).collect::<Vec<_>>()
    }));
}

#[test]
fn a_place_with_an_old_value_is_found() {
    const ROW: &str = "| `c.rs`: `WAIT` | `d.rs` | It waits, for {} by default |";
    let source = |path: &str| match path {
        "c.rs" => "const WAIT: Duration = Duration::from_secs(30);\n".to_owned(),
        _ => "/// It waits, for 20\n    /// s by default.\nlet x = 30;\n".to_owned(),
    };
    let right = |path: &str| source(path).replace("20", "30");
    let found = |table: &str| outdated(&rows(table)[0], source);
    assert_eq!(outdated(&rows(ROW)[0], right), None);
    assert!(found(ROW).unwrap().starts_with("d.rs does not say"));
    assert!(found(&ROW.replace("WAIT", "WAITS")).unwrap().contains("no constant WAITS"));
    assert!(found(&ROW.replace("{} ", "")).is_some());

    let prose = "it waits, for 5 s by default, or 0 by default, or is off by default";
    assert_eq!(defaults(prose), ["it waits, for 5 s by default"]);
    assert!(is_listed(&rows(ROW), "d.rs", "waits, for 5 s by default"));
    assert!(!is_listed(&rows(ROW), "d.rs", "sleeps, after 5 s by default"));
    assert!(!is_listed(&rows(ROW), "e.rs", "waits, for 5 s by default"));
}
