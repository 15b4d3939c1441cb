//! No two files of a crate use each other, directly or by way of others: what both need lives in a
//! third.
//!
//! Uses of a module that a file lies in (`super::Thing` of a folder's `mod.rs`) don't count, as a
//! folder is one with its `mod.rs`; nor does the re-export of a module below. A name that a
//! `mod.rs` re-exports counts as that of its own file.

use std::collections::{BTreeMap, BTreeSet};

use super::{assert_none, blank, sources, without_tests};

/// Left as they are.
const ALLOWED: [(&str, &[&str]); 2] = [
    // Handles on one connection, each of which leads to the others.
    (
        "middleware/src",
        &[
            "connection::budget",
            "connection::closing",
            "connection::info",
            "connection::shared",
            "connection::stats",
        ],
    ),
    // A constant, which belongs into a third file.
    ("src", &["wire::large", "wire::output"]),
];

type Module = Vec<String>;

/// The paths that a module uses, and whether it exports them.
type Uses = BTreeMap<Module, Vec<(Module, bool)>>;

fn module(path: &str) -> Module {
    let path = path.trim_end_matches(".rs").trim_end_matches("/mod").trim_end_matches("lib");
    path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// `a::{b, c::d}` as `a::b` and `a::c::d`.
fn expand(tree: &str, above: &[String], paths: &mut Vec<Module>) {
    let (mut depth, mut from) = (0, 0);
    let mut parts = Vec::new();
    for (at, c) in tree.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&tree[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&tree[from..]);
    for part in parts {
        let part = part.split(" as ").next().unwrap_or_default().trim();
        let (path, below) = part
            .split_once('{')
            .map_or((part, None), |(path, below)| (path, below.strip_suffix('}')));
        let names =
            path.split("::").map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned);
        let path: Module = above.iter().cloned().chain(names).collect();
        match below {
            Some(below) => expand(below, &path, paths),
            None => paths.push(path),
        }
    }
}

/// What the code of a module uses: by `use`, and by paths within expressions and types.
fn uses(code: &str) -> Vec<(Module, bool)> {
    let mut found = Vec::new();
    let mut rest = String::new();
    for item in code.split_inclusive(';') {
        let line =
            item.rfind("use ").filter(|&at| item[..at].ends_with(['\n', ' ', ')']) || at == 0);
        match line.map(|at| item.split_at(at)) {
            Some((before, tree)) if item.ends_with(';') && !tree.contains(['(', '=']) => {
                let is_public =
                    before.lines().last().is_some_and(|line| line.trim_start().starts_with("pub"));
                let mut paths = Vec::new();
                expand(&tree["use ".len()..tree.len() - 1], &[], &mut paths);
                found.extend(paths.into_iter().map(|path| (path, is_public)));
                rest.push_str(before);
            }
            _ => rest.push_str(item),
        }
    }
    for path in rest.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')) {
        if ["crate::", "super::", "self::"].iter().any(|root| path.starts_with(root)) {
            found.push((path.split("::").map(str::to_owned).collect(), false));
        }
    }
    found
}

/// The module that has what this path means in `from`; `None` for another crate.
fn resolve(from: &[String], path: &[String], all: &Uses, depth: usize) -> Option<Module> {
    let mut at = from.to_vec();
    let mut rest = path.iter().peekable();
    match path.first()?.as_str() {
        "crate" => {
            at.clear();
            rest.next();
        }
        "self" => drop(rest.next()),
        "super" => {
            while rest.next_if(|name| *name == "super").is_some() {
                at.pop();
            }
        }
        first if all.contains_key(&[from, &[first.to_owned()]].concat()) => {}
        _ => return None,
    }
    while let Some(name) =
        rest.next_if(|name| all.contains_key(&[&at[..], &[(*name).clone()]].concat()))
    {
        at.push(name.clone());
    }
    let exports = rest.peek().filter(|_| depth < 5).and_then(|name| {
        let exported = all
            .get(&at)?
            .iter()
            .filter(|(path, is_public)| *is_public && path.last() == Some(*name));
        exported.into_iter().find_map(|(path, _)| resolve(&at, path, all, depth + 1))
    });
    exports.or(Some(at))
}

/// Which modules each one uses.
fn edges(all: &Uses) -> BTreeMap<&Module, BTreeSet<Module>> {
    let used = |from: &Module, (path, is_public): &(Module, bool)| {
        let to = resolve(from, path, all, 0)?;
        let is_above = from.starts_with(&to);
        let is_export = *is_public && to.starts_with(from);
        (!is_above && !is_export && all.contains_key(&to)).then_some(to)
    };
    all.iter()
        .map(|(from, paths)| (from, paths.iter().filter_map(|path| used(from, path)).collect()))
        .collect()
}

/// The modules that lead back to themselves.
fn cycles(files: &[(Module, String)]) -> Vec<String> {
    let all: Uses = files.iter().map(|(module, code)| (module.clone(), uses(code))).collect();
    let edges = edges(&all);
    let mut in_cycles = Vec::new();
    for start in all.keys() {
        let (mut seen, mut left) = (BTreeSet::new(), vec![start]);
        while let Some(module) = left.pop() {
            left.extend(edges.get(module).into_iter().flatten().filter(|next| seen.insert(*next)));
        }
        if seen.contains(start) {
            in_cycles.push(start.join("::"));
        }
    }
    in_cycles
}

#[test]
fn no_files_use_each_other() {
    for root in ["src", "codecs/src", "laws/src", "middleware/src", "admin/src"] {
        let shipped = sources(&[root]).into_iter().filter(|s| !s.path.contains("/tests"));
        let files: Vec<_> = shipped
            .map(|s| (module(&s.path[root.len()..]), without_tests(&blank(&s.text))))
            .collect();
        let is_allowed = |module: &String| {
            ALLOWED.iter().any(|(of, all)| *of == root && all.contains(&module.as_str()))
        };
        let found = cycles(&files).into_iter().filter(|module| !is_allowed(module));
        assert_none(found.map(|module| format!("{root}: {module} uses itself by way of others")));
    }
}

#[test]
fn cycles_are_found_through_braces_re_exports_and_paths() {
    let file = |name: &str, code: &str| (module(name), code.to_owned());
    let found = |files: &[(Module, String)]| cycles(files).join(" ");
    let root = file("lib.rs", "mod a; mod b;\npub use self::a::A;");
    assert_eq!(
        found(&[root.clone(), file("a.rs", "use crate::{b::B};"), file("b.rs", "use crate::A;")]),
        "a b"
    );
    assert_eq!(
        found(&[root.clone(), file("a.rs", "use super::b::B;"), file("b.rs", "struct B;")]),
        ""
    );
    assert_eq!(
        found(&[
            root,
            file("a.rs", "fn a() { crate::b::b(); }"),
            file("b.rs", "fn b(_: super::a::A) {}")
        ]),
        "a b"
    );
    // A folder is one with its `mod.rs`.
    let folder = file("c/mod.rs", "mod d;\nuse self::d::D;\nstruct C;");
    assert_eq!(found(&[folder, file("c/d.rs", "use super::C;\nstruct D(C);")]), "");
}
