//! One noun means one thing: no two modules of the crates define a type of the same name.

use std::collections::{BTreeMap, BTreeSet};

use super::{assert_none, sources, without_tests, words};

/// Names that several modules may define, each with its reason.
const ALLOWED: [(&str, &str); 1] = [(
    "Sealed",
    "the usual name of a private supertrait, in a module `sealed` of the trait that it seals",
)];

/// The name that a line defines: of a struct, an enum, a union, a trait, or a type alias at the top
/// level. An indented `type` belongs to a trait or an impl.
fn defined(line: &str) -> Option<&str> {
    let item = line.trim_start();
    let item = item.strip_prefix("pub").map_or(item, |rest| match rest.strip_prefix('(') {
        Some(scope) => scope.split_once(')').map_or("", |(_, item)| item),
        None => rest,
    });
    let mut words = words(item);
    match words.next()? {
        "struct" | "enum" | "union" | "trait" => words.next(),
        "type" if !line.starts_with(' ') => words.next(),
        _ => None,
    }
}

/// The names that several of these modules define, with the modules.
fn shared(modules: &[(String, String)]) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut names: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (path, code) in modules {
        for name in code.lines().filter_map(defined) {
            names.entry(name).or_default().insert(path);
        }
    }
    names.retain(|_, modules| modules.len() > 1);
    names
}

#[test]
fn a_type_name_means_one_thing() {
    let shipped = sources(&["src", "codecs/src", "middleware/src"]).into_iter();
    let shipped = shipped.filter(|s| !s.path.contains("/tests"));
    let modules: Vec<_> = shipped.map(|s| (s.path, without_tests(&s.code))).collect();
    let shared = shared(&modules);
    let is_allowed = |name: &str| ALLOWED.iter().any(|(allowed, _)| *allowed == name);
    let found = shared.iter().filter(|(name, _)| !is_allowed(name));
    assert_none(
        found
            .map(|(name, modules)| format!("{name} is defined in {modules:?}: rename all but one")),
    );
    let needless = ALLOWED.iter().filter(|(name, _)| !shared.contains_key(name));
    assert_none(
        needless.map(|(name, _)| format!("{name} is allowed, and only one module defines it")),
    );
}

#[test]
fn a_name_that_two_modules_define_is_found() {
    let module = |path: &str, code: &str| (path.to_owned(), code.to_owned());
    let modules = [
        module(
            "a.rs",
            "pub(super) struct State<T>(T);\ntype Due = u8;\nmod m {\n    pub trait Seal {}\n}\nenum Own {}",
        ),
        module(
            "b.rs",
            "enum State {\n    Own,\n}\nimpl Iterator for X {\n    type Due = u8;\n}\n#[x]\npub trait Seal {}",
        ),
        module("c.rs", "fn own(_: Own) {}\nstruct State;\nstruct Due2;"),
    ];
    let found: Vec<_> = shared(&modules).into_iter().map(|(name, in_)| (name, in_.len())).collect();
    assert_eq!(found, [("Seal", 2), ("State", 3)]);
}
