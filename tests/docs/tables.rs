//! Tables that have to be complete: close reasons, layers, examples, features.

use std::fs;
use std::path::PathBuf;

use ropewalk::CloseReason;

use super::{assert_none, read, root};

#[test]
fn every_close_reason_is_listed_with_the_word_of_the_logs() {
    let book = read("docs/src/close-reasons.md");
    let rows: Vec<&str> = book.lines().filter(|line| line.starts_with("| `")).collect();
    let begin = |reason: CloseReason| format!("| `{reason:?}` | `{reason}` | ");
    let missing = |reason: &CloseReason| !rows.iter().any(|row| row.starts_with(&begin(*reason)));
    assert_none(CloseReason::ALL.into_iter().filter(missing).map(begin));
    assert_eq!(
        rows.len(),
        CloseReason::ALL.len(),
        "close-reasons.md lists reasons that do not exist"
    );
}

/// The public names that end with `Layer` in a source file's re-exports.
fn layers(lib: &str) -> Vec<&str> {
    let exports = lib.split(';').filter(|item| item.contains("pub use "));
    let names = exports.flat_map(|item| item.split(|c: char| !c.is_alphanumeric()));
    names.filter(|name| name.ends_with("Layer") && *name != "Layer").collect()
}

#[test]
fn every_layer_is_in_the_one_table_of_layers() {
    let (book, lib) = (read("docs/src/layers.md"), read("middleware/src/lib.rs"));
    let layers = layers(&lib);
    assert!(layers.len() >= 11, "{layers:?}");
    let missing = |layer: &&str| !book.contains(&format!("\n| `{layer}` | "));
    assert_none(layers.into_iter().filter(missing).map(str::to_owned));
    for other in ["README.md", "middleware/README.md", "ARCHITECTURE.md"] {
        assert!(
            !read(other).contains("| `ConnectionLimitLayer` |"),
            "{other} has a table of layers too"
        );
    }
}

#[test]
fn every_example_is_in_the_index_and_the_readme_names_no_other() {
    let (index, readme) = (read("examples/README.md"), read("README.md"));
    let entries = fs::read_dir(root().join("examples")).unwrap().map(|entry| entry.unwrap().path());
    let is_example = |path: &PathBuf| {
        path.extension().is_some_and(|e| e == "rs") || path.join("main.rs").exists()
    };
    let names = entries
        .filter(is_example)
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned());
    assert_none(names.filter(|name| !index.contains(&format!("\n| `{name}` | "))));
    let (_, table) = readme.split_once("## Examples").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let named = table
        .lines()
        .filter(|line| line.starts_with("| "))
        .flat_map(|row| row.split('`').skip(1).step_by(2));
    assert_none(
        named.filter(|name| !index.contains(&format!("\n| `{name}` | "))).map(str::to_owned),
    );
}

#[test]
fn every_feature_is_in_getting_started() {
    let manifest = read("Cargo.toml");
    let (_, features) = manifest.split_once("[features]\n").unwrap();
    let (features, _) = features.split_once("\n[").unwrap();
    let names = features.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name);
    let book = read("docs/src/getting-started.md");
    let (_, table) = book.split_once("## Features").unwrap();
    let missing = |name: &&str| *name != "default" && !table.contains(&format!("`{name}`"));
    assert_none(names.filter(|name| !name.starts_with('#')).filter(missing).map(str::to_owned));
}
