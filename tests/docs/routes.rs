//! The routes through the code in ARCHITECTURE.md: of a byte, and of the reason of a connection's
//! end. The files and functions that they name exist.

use std::collections::BTreeSet;

use ropewalk::CloseReason;

use super::{assert_none, read};

/// The most files that a reader opens to follow a byte.
const FILES_OF_A_BYTE: usize = 28;

/// The text between this heading and the next one.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let (_, rest) = text.split_once(&format!("\n## {heading}\n")).expect("the heading exists");
    rest.split("\n## ").next().unwrap_or(rest)
}

/// The cells of the rows of a section's table.
fn rows(section: &str) -> Vec<Vec<&str>> {
    let rows = section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    rows.map(|row| row.split(" | ").collect()).skip(1).collect()
}

/// The words between backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// What is wrong with the steps of a byte: files with functions.
fn lost(steps: &[Vec<&str>], source: impl Fn(&str) -> String) -> Vec<String> {
    let mut lost = Vec::new();
    for step in steps {
        let [file, functions, _] = step[..] else {
            lost.push(format!("not three cells: {step:?}"));
            continue;
        };
        let path = quoted(file).next().unwrap_or_default();
        let text = source(path);
        let is_missing = |name: &&str| {
            !text.contains(&format!("fn {name}(")) && !text.contains(&format!("fn {name}<"))
        };
        lost.extend(
            quoted(functions).filter(is_missing).map(|name| format!("{path} has no {name}")),
        );
    }
    lost
}

/// What is wrong with a cell of places, each a file and the words in it: `` `a.rs`: `b`, `c` ``,
/// with a remark before it or not.
fn misplaced(cell: &str, source: impl Fn(&str) -> String) -> Vec<String> {
    let mut misplaced = Vec::new();
    for place in cell.split("; ") {
        let mut words = quoted(place);
        let path = words.next().unwrap_or_default();
        let text = source(path);
        let words: Vec<&str> = words.collect();
        if words.is_empty() {
            misplaced.push(format!("names nothing in a file: {place}"));
        }
        let missing = words.iter().filter(|word| !text.contains(**word));
        misplaced.extend(missing.map(|word| format!("{path} has no {word}")));
    }
    misplaced
}

#[test]
fn the_way_of_a_byte_has_at_most_28_files_with_functions_that_exist() {
    let architecture = read("ARCHITECTURE.md");
    let steps = rows(section(&architecture, "The way of a byte"));
    let files: BTreeSet<&str> = steps.iter().map(|step| step[0]).collect();
    assert!(steps.len() > 20, "{} steps", steps.len());
    assert!(files.len() <= FILES_OF_A_BYTE, "{} files", files.len());
    assert_none(lost(&steps, read));
}

#[test]
fn every_close_reason_has_the_place_where_it_is_set() {
    let architecture = read("ARCHITECTURE.md");
    let rows = rows(section(&architecture, "Where a connection's end is decided"));
    let named: Vec<&str> = rows.iter().flat_map(|row| quoted(row[0])).collect();
    let wrong = CloseReason::ALL.into_iter().map(|reason| format!("{reason:?}"));
    let wrong = wrong.filter(|reason| named.iter().filter(|name| *name == reason).count() != 1);
    assert_none(wrong.map(|reason| format!("{reason} is not named in one row")));
    assert_eq!(named.len(), CloseReason::ALL.len(), "reasons that do not exist: {named:?}");
    assert_none(rows.iter().flat_map(|row| misplaced(row[1], read)));
}

#[test]
fn a_step_and_a_place_that_do_not_exist_are_found() {
    let source = |_: &str| "fn here<T>() {}\nfn there() {}".to_owned();
    let table =
        "x\n## A\n\n| f | g | h |\n|---|---|---|\n| `f.rs` | `here`, `there` | x |\n\n## B\n";
    assert_eq!(lost(&rows(section(table, "A")), source), [""; 0]);
    assert_eq!(lost(&[vec!["`f.rs`", "`her`", "x"]], source), ["f.rs has no her"]);
    assert_eq!(misplaced("of it: `f.rs`: `here`; `g.rs`: `there`", source), [""; 0]);
    assert_eq!(misplaced("`f.rs`: `where`", source), ["f.rs has no where"]);
    assert_eq!(misplaced("`f.rs`", source), ["names nothing in a file: `f.rs`"]);
}
