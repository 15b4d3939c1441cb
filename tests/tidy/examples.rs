//! The examples: how long they are, and that each is described and run.

use super::{Source, assert_none, read, sources};

/// For an example in one file, and for all files of an example in a folder.
const MAX_EXAMPLE: usize = 80;
const MAX_EXAMPLE_FOLDER: usize = 500;

/// The examples by name: a file, or the `main.rs` of a folder.
pub(super) fn examples() -> Vec<(String, Source)> {
    let named = |source: Source| {
        let path = source.path.strip_prefix("examples/")?.strip_suffix(".rs")?;
        let name = path.strip_suffix("/main").unwrap_or(path).to_owned();
        (!name.contains('/')).then_some((name, source))
    };
    sources(&["examples"]).into_iter().filter_map(named).collect()
}

#[test]
fn every_example_is_short_and_says_how_to_try_it() {
    let (index, all) = (read("examples/README.md"), sources(&["examples"]));
    for (name, source) in examples() {
        let folder = format!("examples/{name}/");
        let parts =
            all.iter().filter(|part| part.path == source.path || part.path.starts_with(&folder));
        let lines: usize = parts.map(|part| part.text.lines().count()).sum();
        let max = if source.path.starts_with(&folder) { MAX_EXAMPLE_FOLDER } else { MAX_EXAMPLE };
        assert!(lines <= max, "examples/{name}: {lines} lines, and {max} it may have");
        assert!(
            source.text.starts_with("//! Try it:"),
            "{}: its first line does not say how to try it",
            source.path
        );
        assert!(
            index.contains(&format!("| `{name}` |")),
            "{}: not in the table of examples/README.md",
            source.path
        );
    }
}

#[test]
fn every_example_is_run_by_a_test() {
    let tests: Vec<_> =
        sources(&["tests"]).into_iter().filter(|s| !s.path.starts_with("tests/tidy/")).collect();
    let marks = |name: &str| [format!("\"{name}\""), format!("examples/{name}.rs")];
    let is_run = |name: &str| {
        tests.iter().any(|test| marks(name).iter().any(|mark| test.text.contains(mark)))
    };
    assert_none(
        examples().into_iter().filter(|(name, _)| !is_run(name)).map(|(_, source)| source.path),
    );
}
