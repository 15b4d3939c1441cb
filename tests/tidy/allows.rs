//! Each lint that the shipped code allows has its reason beside it.

use super::{assert_none, sources};

/// The attributes without a reason: a comment behind, above or below, or `reason = "…"`.
fn unexplained(text: &str) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_comment = |line: Option<&&str>| line.is_some_and(|line| line.starts_with("// "));
    let mut unexplained = Vec::new();
    for (first, line) in lines.iter().enumerate() {
        if !line.starts_with("#[allow(") && !line.starts_with("#![allow(") {
            continue;
        }
        let length = lines[first..].iter().position(|line| line.contains(")]")).unwrap_or_default();
        let attribute = &lines[first..=first + length];
        let is_explained = attribute.iter().any(|line| line.contains(")] // "))
            || attribute.iter().any(|line| line.contains("reason = "))
            || is_comment(first.checked_sub(1).and_then(|above| lines.get(above)))
            || is_comment(lines.get(first + length + 1));
        if !is_explained {
            unexplained.push(*line);
        }
    }
    unexplained
}

#[test]
fn every_lint_that_the_code_allows_says_why() {
    let shipped = sources(&["src", "codecs/src", "laws/src", "middleware/src", "admin/src"]);
    let shipped = shipped.into_iter().filter(|source| !source.path.contains("/tests"));
    assert_none(shipped.flat_map(|source| {
        let unexplained = unexplained(&source.text).into_iter();
        unexplained.map(|line| format!("{}: {line}", source.path)).collect::<Vec<_>>()
    }));
}

#[test]
fn an_allowed_lint_without_a_reason_is_found() {
    let text = "#[allow(a)] // because\nx\n#![allow(b)]\n\n// It is so.\n#[allow(c)]\ny\n#[allow(d, reason = \"e\")]\n\
                z\n#[allow(\n    f\n)]\n// It is so.\nlet g;\n/// Documented.\n#[allow(h)]\nstruct H;\n";
    assert_eq!(unexplained(text), ["#![allow(b)]", "#[allow(h)]"]);
}
