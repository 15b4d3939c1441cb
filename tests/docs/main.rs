//! README, the book and the other documents: their code is compiled, their links lead somewhere,
//! their tables are complete.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod book;
mod fetched;
mod figures;
mod limits;
mod links;
mod restated;
mod routes;
mod tables;
mod tasks;

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A document, by its path relative to the root.
struct Document {
    path: String,
    text: String,
}

/// Every `.md` file of a folder, in order; of its subfolders too if `deep`.
fn documents(folder: &str, deep: bool) -> Vec<Document> {
    let mut found = Vec::new();
    collect(&root().join(folder), "md", deep, &mut found);
    found.sort();
    let document = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        Document { path: path.strip_prefix(root()).unwrap().display().to_string(), text }
    };
    found.into_iter().map(document).collect()
}

/// Collects the files that end with this extension.
fn collect(folder: &Path, ends: &str, deep: bool, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let is_kept = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if deep && path.is_dir() && !path.ends_with("target") && !is_kept {
            collect(&path, ends, deep, found);
        } else if path.extension().is_some_and(|extension| extension == ends) {
            found.push(path);
        }
    }
}

/// Every `.rs` file below these folders: its path relative to the root, and its text.
fn sources(folders: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    folders.iter().for_each(|folder| collect(&root().join(folder), "rs", true, &mut found));
    found.sort();
    let source = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        (path.strip_prefix(root()).unwrap().display().to_string(), text)
    };
    found.into_iter().map(source).collect()
}

/// The blocks of code of a text: what stands behind the three backticks, and the lines.
fn blocks(text: &str) -> Vec<(&str, Vec<&str>)> {
    let mut blocks = Vec::new();
    let mut open: Option<(&str, Vec<&str>)> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(language), None) => open = Some((language, Vec::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some((_, lines))) => lines.push(line),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block of code has no end");
    blocks
}

#[track_caller]
fn assert_none(complaints: impl IntoIterator<Item = String>) {
    assert_eq!(complaints.into_iter().collect::<Vec<_>>().join("\n"), "");
}
