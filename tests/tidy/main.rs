//! The house rules that a machine can check; CONTRIBUTING.md has the others.

mod allows;
mod cycles;
mod defaults;
mod examples;
mod faults;
mod itself;
mod layers;
mod lexed;
mod logging;
mod names;
mod packages;
mod schemes;
mod tuples;

use std::fs;
use std::path::{Path, PathBuf};

use lexed::{blank, body_end, long_functions};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const MAX_FILE: usize = 400;
const MAX_FUNCTION: usize = 60;

/// The modules of `src/`: each may use those to its right only. ARCHITECTURE.md has this list too.
const ORDER: [&str; 14] = [
    "testing", "cli", "metrics", "server", "memory", "client", "endpoint", "listener", "leaf",
    "session", "dispatch", "outbox", "wire", "tls",
];

/// Words that no code may contain.
const BANNED: [&str; 4] = ["todo!", "dbg!", "unimplemented!", "#[ignore"];

struct Source {
    /// Relative to the root.
    path: String,
    text: String,
    /// The text with comments, strings and characters blanked out.
    code: String,
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every `.rs` file of the repository under one of these folders.
fn sources(folders: &[&str]) -> Vec<Source> {
    let mut paths = Vec::new();
    for folder in folders {
        collect(&Path::new(ROOT).join(folder), &mut paths);
    }
    paths.sort();
    assert!(!paths.is_empty(), "no sources in {folders:?}");
    let source = |path: PathBuf| {
        let text =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let path = path.strip_prefix(Path::new(ROOT)).unwrap_or(&path).display().to_string();
        Source { code: blank(&text), path, text }
    };
    paths.into_iter().map(source).collect()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    // A folder that is not there yet has no sources.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

fn all_sources() -> Vec<Source> {
    sources(&[
        "src",
        "codecs",
        "laws",
        "middleware",
        "admin",
        "examples",
        "tests",
        "benches",
        "fuzz",
    ])
}

/// The code without its `#[cfg(test)]` modules: tests may use all modules.
fn without_tests(code: &str) -> String {
    let mut rest = code;
    let mut shipped = String::new();
    while let Some(at) = rest.find("#[cfg(test)]") {
        shipped.push_str(&rest[..at]);
        // A module in a file of its own ends with a semicolon here.
        let end = body_end(&rest[at..]).or_else(|| rest[at..].find(';').map(|at| at + 1));
        rest = &rest[at + end.unwrap_or(rest.len() - at)..];
    }
    shipped + rest
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty())
}

/// The names that follow each `crate::`, in braces or not.
fn imports(code: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for (at, matched) in code.match_indices("crate::") {
        let after = &code[at + matched.len()..];
        match after.strip_prefix('{') {
            Some(list) => names.extend(list.split(['}', ';']).next().into_iter().flat_map(words)),
            None => names.extend(words(after).next()),
        }
    }
    names
}

/// The module that a name means: the module of that name, or the one from which `lib.rs` re-exports
/// it.
fn module_of<'a>(name: &'a str, lib: &'a str) -> Option<&'a str> {
    if ORDER.contains(&name) {
        return Some(name);
    }
    lib.split(';').find_map(|item| {
        let mut path = words(item.split("pub use ").nth(1)?);
        let module = path.next()?;
        path.any(|word| word == name).then_some(module)
    })
}

/// The imports of a module that do not go to the right.
fn wrong_imports(module: &str, code: &str, lib: &str) -> Vec<String> {
    let place = |module: &str| ORDER.iter().position(|&m| m == module);
    let Some(own) = place(module) else {
        return vec![format!("the module {module} has no place in the order")];
    };
    let wrong = |name: &&str| module_of(name, lib).and_then(place).is_some_and(|used| used < own);
    imports(code)
        .into_iter()
        .filter(wrong)
        .map(|name| format!("{module} uses crate::{name}"))
        .collect()
}

/// The value of the first `key = "value"` in a manifest.
fn value<'a>(manifest: &'a str, key: &str) -> &'a str {
    let line = manifest.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_prefix('='));
    line.unwrap_or_else(|| panic!("no {key}")).trim().trim_matches('"')
}

/// The versions of Rust that a text names as required.
fn rust_versions(text: &str) -> Vec<&str> {
    let after = |mark| {
        text.split(mark)
            .skip(1)
            .map(|rest: &str| rest.split_whitespace().next().unwrap_or_default())
    };
    after("`rust-version` is ")
        .chain(after("MSRV "))
        .map(|version| version.trim_end_matches(['.', ':', ',']))
        .collect()
}

/// The lints that are allowed without a comment that says why.
fn unexplained_allows(manifest: &str) -> Vec<&str> {
    let lines: Vec<&str> = manifest.lines().collect();
    let mut section = "";
    let mut unexplained = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        if line.starts_with('[') {
            section = line;
        }
        let explained = line.contains('#') || (i > 0 && lines[i - 1].starts_with('#'));
        if section.starts_with("[workspace.lints") && line.contains("\"allow\"") && !explained {
            unexplained.push(*line);
        }
    }
    unexplained
}

#[track_caller]
fn assert_none(complaints: impl IntoIterator<Item = String>) {
    assert_eq!(complaints.into_iter().collect::<Vec<_>>().join("\n"), "");
}

#[test]
fn no_file_is_longer_than_400_lines() {
    let long = all_sources()
        .into_iter()
        .map(|s| (s.text.lines().count(), s.path))
        .filter(|(n, _)| *n > MAX_FILE);
    assert_none(long.map(|(lines, path)| format!("{path}: {lines} lines")));
}

#[test]
fn no_function_is_longer_than_60_lines() {
    assert_none(all_sources().into_iter().flat_map(|s| {
        let path = s.path;
        long_functions(&s.code).into_iter().map(move |function| format!("{path}: {function}"))
    }));
}

#[test]
fn the_modules_of_the_server_use_only_modules_to_their_right() {
    let lib = blank(&read("src/lib.rs"));
    let shipped = sources(&["src"]).into_iter().filter(|s| {
        s.path != "src/lib.rs" && !s.path.ends_with("/tests.rs") && !s.path.contains("/tests/")
    });
    assert_none(shipped.flat_map(|s| {
        let module = s.path["src/".len()..].split(['/', '.']).next().unwrap_or_default().to_owned();
        let wrong = wrong_imports(&module, &without_tests(&s.code), &lib);
        wrong.into_iter().map(move |what| format!("{}: {what}", s.path))
    }));
}

#[test]
fn the_architecture_names_the_same_order_of_modules() {
    assert!(
        read("ARCHITECTURE.md").contains(&ORDER.join(", ")),
        "ARCHITECTURE.md, invariants: {}",
        ORDER.join(", ")
    );
}

#[test]
fn codecs_know_no_other_crate_and_middleware_only_them() {
    // The laws of codecs are tests of theirs.
    let codecs = ("codecs", &["ropewalk", "ropewalk_middleware"][..], "ropewalk-laws = { path =");
    let laws = ("laws", &["ropewalk", "ropewalk_middleware"][..], "ropewalk-codecs");
    for (folder, others, known) in
        [codecs, laws, ("middleware", &["ropewalk"][..], "ropewalk-codecs")]
    {
        let knows = |s: &Source| words(&s.code).any(|word| others.contains(&word));
        assert_none(sources(&[folder]).into_iter().filter(knows).map(|s| s.path));
        let manifest = read(&format!("{folder}/Cargo.toml"));
        // It may name itself, to turn its features on for its tests.
        let other = |line: &&str| {
            line.starts_with("ropewalk")
                && !line.starts_with(&format!("ropewalk-{folder}"))
                && !line.starts_with(known)
        };
        assert_none(manifest.lines().filter(other).map(str::to_owned));
    }
}

#[test]
fn the_versions_agree() {
    let manifest = read("Cargo.toml");
    let version = value(&manifest, "version");
    for crate_ in
        ["ropewalk", "ropewalk-codecs", "ropewalk-laws", "ropewalk-middleware", "ropewalk-admin"]
    {
        assert!(
            value(&manifest, crate_).contains(&format!("version = \"{version}\"")),
            "{crate_} in Cargo.toml"
        );
    }
    for document in ["README.md", "CHANGELOG.md"] {
        assert!(read(document).contains(version), "{document} does not name {version}");
    }
}

#[test]
fn the_readmes_name_the_rust_version_of_the_manifest() {
    let manifest = read("Cargo.toml");
    let wanted = value(&manifest, "rust-version");
    assert!(!rust_versions(&read("README.md")).is_empty(), "README.md names no rust-version");
    for document in [
        "README.md",
        "codecs/README.md",
        "laws/README.md",
        "middleware/README.md",
        "admin/README.md",
    ] {
        assert!(
            rust_versions(&read(document)).iter().all(|&found| found == wanted),
            "{document}: {wanted} is right"
        );
    }
}

#[test]
fn every_crate_forbids_unsafe_code() {
    for lib in [
        "src/lib.rs",
        "codecs/src/lib.rs",
        "laws/src/lib.rs",
        "middleware/src/lib.rs",
        "admin/src/lib.rs",
    ] {
        assert!(blank(&read(lib)).contains("#![forbid(unsafe_code)]"), "{lib}");
    }
}

#[test]
fn nothing_unfinished_is_left_and_no_test_is_ignored() {
    assert_none(all_sources().into_iter().flat_map(|s| {
        let found = BANNED.into_iter().filter(move |word| s.code.contains(word));
        found.map(move |word| format!("{}: {word}", s.path)).collect::<Vec<_>>()
    }));
}

#[test]
fn a_skipped_test_says_so_past_the_capture_of_its_output() {
    let tests =
        sources(&["tests"]).into_iter().filter(|source| source.text.contains("println!(\"skipped"));
    assert_none(
        tests.filter(|source| !source.path.starts_with("tests/tidy/")).map(|source| source.path),
    );
}

#[test]
fn every_lint_that_is_allowed_says_why() {
    assert_none(unexplained_allows(&read("Cargo.toml")).into_iter().map(str::to_owned));
}
