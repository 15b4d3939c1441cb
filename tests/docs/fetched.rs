//! Code that the book shows out of the examples is the examples' own: `UPDATE_DOCS=1 cargo test
//! --test docs` fetches it anew.

use std::env;
use std::fs;

use super::{documents, root};

/// What stands before a block of code, up to the file it is from, a colon, and a part of its first
/// line.
pub(super) const MARK: &str = "<!-- from ";

fn indent(line: &str) -> &str {
    &line[..line.len() - line.trim_start().len()]
}

/// The item whose first line contains `start`, with the comments and attributes over it, as far
/// left as it goes.
fn item(text: &str, start: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let at = lines.iter().position(|line| line.contains(start))?;
    let indent = indent(lines[at]);
    let above =
        |line: &&&str| line.trim_start().starts_with("//") || line.trim_start().starts_with("#[");
    let first = at - lines[..at].iter().rev().take_while(above).count();
    let is_last = |line: &&str| {
        let inner = line.strip_prefix(indent).unwrap_or(" ");
        inner == "}" || !inner.starts_with([' ', '/', '#']) && inner.ends_with(';')
    };
    let last = at + lines[at..].iter().position(is_last)?;
    let lines = lines[first..=last]
        .iter()
        .map(|line| format!("{}\n", line.strip_prefix(indent).unwrap_or(line)));
    Some(lines.collect())
}

/// The document with every marked block as its source has it.
fn filled(document: &str) -> String {
    let mut pieces = document.split(MARK);
    let mut filled = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (mark, rest) = piece
            .split_once(" -->\n```rust\n")
            .unwrap_or_else(|| panic!("no code behind {piece:?}"));
        let (_, rest) =
            rest.split_once("```\n").unwrap_or_else(|| panic!("no end of the code of {mark:?}"));
        let (path, start) =
            mark.split_once(": ").unwrap_or_else(|| panic!("no file or no line in {mark:?}"));
        let source =
            fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        let code = item(&source, start).unwrap_or_else(|| panic!("{path} has no {start:?}"));
        filled += &format!("{MARK}{mark} -->\n```rust\n{code}```\n{rest}");
    }
    filled
}

#[test]
fn the_code_in_the_documents_is_that_of_the_examples() {
    for document in documents("docs/src", true) {
        let wanted = filled(&document.text);
        if env::var_os("UPDATE_DOCS").is_some() {
            fs::write(root().join(&document.path), &wanted).unwrap();
        } else if document.text != wanted {
            let line =
                document.text.lines().zip(wanted.lines()).position(|(is, should)| is != should);
            let line = line.unwrap_or_default() + 1;
            panic!(
                "{}, line {line}: not what the example says; UPDATE_DOCS=1 fetches it",
                document.path
            );
        }
    }
}

#[test]
fn an_item_goes_from_its_comments_to_its_last_line() {
    let source = "use a;\n\n/// One.\n#[b]\nfn one(\n    c: D,\n) {\n    if e {\n    }\n}\n\nimpl F {\n    fn two() {\n        g;\n    }\n}\nconst H: [u8; 1] =\n    [1];\nstruct I;\n";
    assert_eq!(
        item(source, "fn one").unwrap(),
        "/// One.\n#[b]\nfn one(\n    c: D,\n) {\n    if e {\n    }\n}\n"
    );
    assert_eq!(item(source, "fn two").unwrap(), "fn two() {\n    g;\n}\n");
    assert_eq!(item(source, "struct I").unwrap(), "struct I;\n");
    assert_eq!(item(source, "struct J"), None);
}
