//! `tests/DEFAULTS.md`: each row of README's table of defaults has one there, and each test it names exists.

use super::faults::wrong;
use super::{assert_none, read};

/// What stands in the first cell of each row of a table, and in the others.
fn rows(table: &str) -> Vec<(&str, &str)> {
    table
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | "))
        .filter(|(what, _)| *what != "what")
        .collect()
}

/// What README says under this heading.
fn section<'a>(readme: &'a str, heading: &str) -> &'a str {
    let (_, behind) = readme.split_once(heading).unwrap_or_default();
    behind.split_once("\n## ").map_or(behind, |(section, _)| section)
}

#[test]
fn every_default_has_a_test_that_exists() {
    let (readme, tested) = (read("README.md"), read("tests/DEFAULTS.md"));
    let defaults: Vec<&str> = rows(section(&readme, "\n## Defaults\n")).iter().map(|(what, _)| *what).collect();
    let tests = rows(&tested);
    assert!(defaults.len() > 40, "{} defaults", defaults.len());
    assert_eq!(tests.iter().map(|(what, _)| *what).collect::<Vec<_>>(), defaults);
    assert_none(
        tests.iter().flat_map(|(what, tests)| wrong(tests, read).into_iter().map(move |w| format!("{what}: {w}"))),
    );
}
