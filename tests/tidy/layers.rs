//! `tests/LAYERS.md`: each layer of the book's table has a row there, and each test it names exists.

use super::{assert_none, read, sources};

/// The layers of a table: the first name of each row.
fn layers(table: &str) -> Vec<&str> {
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    rows.map(|(name, _)| name).filter(|name| name.ends_with("Layer")).collect()
}

/// The tests that a text names.
fn tests(text: &str) -> impl Iterator<Item = &str> {
    let names = text.split('`').skip(1).step_by(2);
    names.filter(|name| name.matches('_').count() > 2)
}

#[test]
fn every_layer_of_the_book_has_tests_that_exist() {
    let (book, tested) = (read("docs/src/layers.md"), read("tests/LAYERS.md"));
    assert!(layers(&book).len() > 20);
    assert_eq!(layers(&tested), layers(&book));
    let all = sources(&["tests", "middleware/tests", "middleware/src"]);
    let exists = |name: &str| all.iter().any(|s| s.code.contains(&format!("fn {name}(")));
    assert_none(tests(&tested).filter(|name| !exists(name)).map(|name| format!("no test {name}")));
}
