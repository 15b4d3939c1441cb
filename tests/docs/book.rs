//! The book: its table of contents is complete, and each of its snippets is compiled.

use super::fetched::MARK;
use super::{assert_none, blocks, documents, read, root};

/// The longest line of code and diagrams, in characters.
const WIDTH: usize = 80;

/// README fits into three screens.
const README_LINES: usize = 200;

#[test]
fn every_chapter_is_in_the_table_of_contents_once() {
    let summary = read("docs/src/SUMMARY.md");
    let chapters =
        documents("docs/src", true).into_iter().filter(|d| !d.path.ends_with("SUMMARY.md"));
    assert_none(chapters.filter_map(|chapter| {
        let link = format!("({})", chapter.path.strip_prefix("docs/src/").unwrap());
        let times = summary.matches(&link).count();
        (times != 1).then(|| format!("SUMMARY.md names {link} {times} times"))
    }));
    assert!(root().join("docs/book.toml").exists());
}

/// What is wrong with the code of a document. rustdoc compiles it if `compiled`; blocks fetched
/// from examples are compiled there.
fn wrong(text: &str, compiled: bool) -> Vec<String> {
    let fetched = text.lines().filter(|line| line.starts_with(MARK)).count();
    let is_rust = |language: &&str| language.split(',').next() == Some("rust");
    let blocks = blocks(text);
    let rust: Vec<&str> = blocks.iter().map(|(language, _)| *language).filter(is_rust).collect();
    let mut wrong: Vec<String> = Vec::new();
    if compiled && fetched > 0 {
        wrong.push("rustdoc would compile code that is fetched from an example".into());
    }
    if !compiled && rust.len() > fetched {
        wrong.push(format!(
            "{} blocks of Rust are not compiled: name it in src/lib.rs",
            rust.len() - fetched
        ));
    }
    wrong.extend(
        rust.iter()
            .filter(|block| block.contains("ignore"))
            .map(|block| format!("not compiled: {block}")),
    );
    wrong
}

#[test]
fn every_snippet_is_compiled_by_the_documentation_tests() {
    let lib = read("src/lib.rs");
    let named = |path: &str| lib.contains(&format!("\"../{path}\""));
    let all = documents("docs/src", true)
        .into_iter()
        .chain(documents("", false))
        .chain(documents("examples", false));
    assert_none(all.flat_map(|document| {
        let wrong = wrong(&document.text, named(&document.path));
        wrong.into_iter().map(move |what| format!("{}: {what}", document.path))
    }));
}

/// The lines of code and diagrams that run off an 80-column page. A shell's command is one line,
/// however long.
fn wide(text: &str) -> Vec<String> {
    let long = |line: &&&str| line.chars().count() > WIDTH;
    let blocks = blocks(text).into_iter().filter(|(language, _)| *language != "sh");
    blocks
        .flat_map(|(_, lines)| {
            lines.iter().filter(long).map(|line| (*line).to_owned()).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn code_and_diagrams_fit_into_80_columns() {
    let all = documents("docs/src", true).into_iter();
    let all = all.chain(
        ["", "codecs", "laws", "middleware", "admin"]
            .into_iter()
            .flat_map(|folder| documents(folder, false)),
    );
    // Fetched code has the width of the examples.
    let own = all.filter(|document| !document.text.contains(MARK));
    assert_none(own.flat_map(|document| {
        let path = document.path;
        wide(&document.text).into_iter().map(move |line| format!("{path}: {line}"))
    }));
    for front in [
        "src/lib.rs",
        "codecs/src/lib.rs",
        "laws/src/lib.rs",
        "middleware/src/lib.rs",
        "admin/src/lib.rs",
    ] {
        let text = read(front);
        let page: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("//!"))
            .map(|line| line.strip_prefix(' ').unwrap_or(line))
            .collect();
        assert_none(wide(&page.join("\n")).into_iter().map(|line| format!("{front}: {line}")));
    }
}

#[test]
fn the_readme_is_short_and_has_its_two_commands_unchanged() {
    let readme = read("README.md");
    let lines = readme.lines().count();
    assert!(lines <= README_LINES, "{lines} lines");
    assert!(readme.contains("\ncargo run --example capped_echo "));
    assert!(readme.contains("\ncargo test "));
}

#[test]
fn the_picture_of_rustdoc_is_that_of_the_architecture() {
    let architecture = read("ARCHITECTURE.md");
    let (_, picture) =
        blocks(&architecture).into_iter().find(|(language, _)| *language == "text").unwrap();
    let lines: Vec<String> =
        picture.iter().map(|line| format!("//! {line}").trim_end().to_owned()).collect();
    assert!(
        read("src/lib.rs").contains(&lines.join("\n")),
        "src/lib.rs has another picture than ARCHITECTURE.md"
    );
}

#[test]
fn uncompiled_and_wide_code_is_found() {
    let snippet = "```rust,no_run\nx\n```\n";
    assert_eq!(wrong(snippet, true), [""; 0]);
    assert_eq!(wrong(snippet, false).len(), 1);
    assert_eq!(wrong(&format!("{MARK}a.rs: b -->\n{snippet}"), false), [""; 0]);
    assert_eq!(wrong(&format!("{MARK}a.rs: b -->\n{snippet}"), true).len(), 1);
    assert_eq!(wrong("```rust,ignore\nx\n```\n", true), ["not compiled: rust,ignore"]);
    let (fits, wider) = ("─".repeat(80), "─".repeat(81));
    assert_eq!(
        wide(&format!("{wider}\n```text\n{fits}\n{wider}\n```\n```sh\n{wider}\n```\n")),
        [wider]
    );
}
