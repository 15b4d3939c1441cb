//! A scheme of endpoints is known by few files; CONTRIBUTING.md lists them.

use super::{assert_none, read, sources};

/// The files that know `unix:`: its own, the table, and those of remotes.
const KNOWN: [&str; 4] = [
    "src/endpoint/unix/mod.rs",
    "src/endpoint/mod.rs",
    "src/endpoint/remote.rs",
    "src/endpoint/remote/parse.rs",
];

#[test]
fn a_scheme_is_known_by_its_own_files_the_table_and_remotes() {
    let knows = |code: &str| code.contains("UnixAddress") || code.contains("Kind::Unix");
    let others = sources(&["src"])
        .into_iter()
        .filter(|s| !KNOWN.contains(&s.path.as_str()) && knows(&s.code));
    assert_none(others.map(|s| format!("{} knows the scheme unix", s.path)));
    let kept = KNOWN.into_iter().filter(|path| !knows(&read(path)));
    assert_none(kept.map(|path| format!("{path} does not know the scheme unix")));
}
