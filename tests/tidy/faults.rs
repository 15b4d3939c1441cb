//! `tests/FAULTS.md`: each fault of the catalogue has a row, and each test a row names exists.

use super::{assert_none, read, sources, without_tests};

/// How many faults each letter of the catalogue has.
const FAULTS: [(char, usize); 7] =
    [('A', 17), ('B', 19), ('C', 24), ('D', 14), ('E', 16), ('F', 17), ('G', 14)];

/// The id of a row, and its cell of tests.
fn rows(table: &str) -> Vec<(&str, &str)> {
    table
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ");
            let id = cells
                .next()
                .filter(|id| id.len() == 3 && id.ends_with(|c: char| c.is_ascii_digit()))?;
            Some((id, cells.nth(1)?))
        })
        .collect()
}

/// What is wrong with a cell of tests.
pub(super) fn wrong(tests: &str, source: impl Fn(&str) -> String) -> Vec<String> {
    if let Some(why) = tests.strip_prefix("does not apply: ") {
        return if why.len() < 10 { vec![format!("no reason: {tests}")] } else { Vec::new() };
    }
    let mut faults = Vec::new();
    for file in tests.split("; ") {
        let mut names = file.split('`').skip(1).step_by(2);
        let text = names.next().map(&source).unwrap_or_default();
        let names: Vec<&str> = names.collect();
        if names.is_empty() {
            faults.push(format!("names no test: {file}"));
        }
        let is_missing = |name: &&&str| !text.contains(&format!("fn {name}("));
        faults
            .extend(names.iter().filter(is_missing).map(|name| format!("there is no test {name}")));
    }
    faults
}

#[test]
fn every_fault_of_the_catalogue_has_a_test_that_exists_or_a_reason() {
    let table = read("tests/FAULTS.md");
    let rows = rows(&table);
    let ids: Vec<&str> = rows.iter().map(|(id, _)| *id).collect();
    let all =
        FAULTS.iter().flat_map(|(letter, n)| (1..=*n).map(move |i| format!("{letter}{i:02}")));
    assert_eq!(ids, all.collect::<Vec<_>>());
    assert_none(
        rows.iter().flat_map(|(id, tests)| {
            wrong(tests, read).into_iter().map(move |w| format!("{id}: {w}"))
        }),
    );
}

/// It writes the time beside what it records, and has its deadline by another clock.
const WRITES_TIMES: &str = "middleware/src/tap/tapped.rs";

#[test]
fn no_deadline_depends_on_the_wall_clock() {
    let shipped = sources(&["src", "codecs/src", "middleware/src", "admin/src"]);
    let asks = |code: &str| code.contains("SystemTime::now");
    assert_none(
        shipped
            .iter()
            .filter(|s| s.path != WRITES_TIMES && asks(&without_tests(&s.code)))
            .map(|s| format!("{}: SystemTime::now", s.path)),
    );
}

#[test]
fn a_missing_test_a_missing_name_and_a_missing_reason_are_found() {
    let source = |_: &str| "fn there_is() {}".to_owned();
    assert_eq!(rows("| A01 | x | `a.rs`: `b` |\n| id | fault | tests |"), [("A01", "`a.rs`: `b`")]);
    assert!(wrong("`a.rs`: `there_is`", source).is_empty());
    assert_eq!(wrong("`a.rs`: `there_is`, `is_not`", source), ["there is no test is_not"]);
    assert_eq!(wrong("`a.rs`", source), ["names no test: `a.rs`"]);
    assert_eq!(wrong("does not apply: no", source).len(), 1);
}
