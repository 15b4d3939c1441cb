//! Links between documents: the file and the heading exist.

use std::path::{Component, Path, PathBuf};

use super::{Document, assert_none, documents, read, root};

/// The targets of a document's links and images, without those in code.
fn targets(text: &str) -> Vec<String> {
    let mut prose = String::new();
    let mut in_code = false;
    for line in text.lines() {
        if line.starts_with("```") {
            in_code = !in_code;
        } else if !in_code {
            // Every other piece between backticks is code.
            prose.extend(line.split('`').step_by(2).chain(["\n"]));
        }
    }
    let inline = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let below = prose
        .lines()
        .filter_map(|line| line.strip_prefix('[')?.split_once("]: ").map(|(_, target)| target));
    inline.chain(below).map(str::to_owned).collect()
}

/// A heading as GitHub and mdBook make an anchor of it.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

fn has_anchor(text: &str, wanted: &str) -> bool {
    let headings = text.lines().filter_map(|line| line.strip_prefix('#'));
    headings.map(|rest| anchor(rest.trim_start_matches('#').trim())).any(|found| found == wanted)
}

/// The path without `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            part => plain.push(part),
        }
    }
    plain
}

fn broken(document: &Document) -> Vec<String> {
    let local = |target: &String| !target.contains("://") && !target.starts_with("mailto:");
    let is_broken = |target: &String| {
        let (file, heading) = target.split_once('#').unwrap_or((target, ""));
        let folder = Path::new(&document.path).parent().unwrap();
        let path =
            if file.is_empty() { PathBuf::from(&document.path) } else { plain(&folder.join(file)) };
        // A built book has no other files.
        let leaves_the_book =
            document.path.starts_with("docs/src/") && !path.starts_with("docs/src");
        if leaves_the_book || !root().join(&path).exists() {
            return true;
        }
        !heading.is_empty() && !has_anchor(&read(&path.display().to_string()), heading)
    };
    targets(&document.text).into_iter().filter(local).filter(is_broken).collect()
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let shallow =
        ["", "examples", "codecs", "laws", "middleware", "admin", "benches", "fuzz", "tests"];
    let all = shallow
        .into_iter()
        .flat_map(|folder| documents(folder, false))
        .chain(documents("docs/src", true));
    assert_none(all.flat_map(|document| {
        broken(&document)
            .into_iter()
            .map(|target| format!("{}: {target}", document.path))
            .collect::<Vec<_>>()
    }));
}

#[test]
fn a_missing_file_and_a_missing_heading_are_found() {
    let document = |text: &str| Document { path: "docs/src/x.md".into(), text: text.into() };
    assert_eq!(broken(&document("[a](limits.md#time) `[c](d)`")), [""; 0]);
    assert_eq!(
        broken(&document("[a](limits.md#tide) [b](../../README.md)")),
        ["limits.md#tide", "../../README.md"]
    );
    assert_eq!(broken(&document("[a](nowhere.md)\n\n[b]: nobody.md")), ["nowhere.md", "nobody.md"]);
    assert_eq!(anchor("The trap: per connection or shared?"), "the-trap-per-connection-or-shared");
}
