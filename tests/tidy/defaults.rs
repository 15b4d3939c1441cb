//! `tests/DEFAULTS.md`: each row of the book's tables of defaults has one there, and each test it
//! names exists.

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

#[test]
fn every_default_has_a_test_that_exists() {
    let (limits, tested) = (read("docs/src/limits.md"), read("tests/DEFAULTS.md"));
    let defaults: Vec<&str> = rows(&limits).iter().map(|(what, _)| *what).collect();
    let tests = rows(&tested);
    assert!(defaults.len() > 40, "{} defaults", defaults.len());
    assert_eq!(tests.iter().map(|(what, _)| *what).collect::<Vec<_>>(), defaults);
    assert_none(tests.iter().flat_map(|(what, tests)| {
        wrong(tests, read).into_iter().map(move |w| format!("{what}: {w}"))
    }));
}
