//! The packages of the workspace: examples and benches are named in their manifests, because
//! cargo does not look for them there.

use super::{assert_none, read, sources, words};

/// The library once more: it has no tests.
const LEAN: &str = "examples/lean";

/// The quoted words of the list that a line of the root's manifest begins.
fn list(manifest: &str, key: &str) -> Vec<String> {
    let (_, after) = manifest
        .split_once(&format!("\n{key} = ["))
        .unwrap_or_else(|| panic!("no {key} in Cargo.toml"));
    let list = after.split(']').next().unwrap_or_default();
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The sources of the programs that the manifest in this folder names.
fn programs(folder: &str) -> Vec<String> {
    let manifest = read(&format!("{folder}/Cargo.toml"));
    let paths =
        manifest.lines().filter_map(|line| line.strip_prefix("path = \"")?.strip_suffix('"'));
    let above = folder.rsplit_once('/').map_or("", |(above, _)| above);
    let from_root = |path: &str| match path.strip_prefix("../") {
        Some(path) => format!("{above}/{path}"),
        None => format!("{folder}/{path}"),
    };
    paths.map(from_root).collect()
}

#[test]
fn every_package_is_one_that_a_plain_cargo_test_tests() {
    let manifest = read("Cargo.toml");
    let mut wanted = vec![".".to_owned()];
    wanted.extend(list(&manifest, "members").into_iter().filter(|folder| folder != LEAN));
    assert_eq!(list(&manifest, "default-members"), wanted);
}

#[test]
fn every_example_and_every_bench_is_in_the_manifest_of_its_package() {
    let members = list(&read("Cargo.toml"), "members");
    let named: Vec<String> = members.iter().flat_map(|folder| programs(folder)).collect();
    let bench = |path: &String| path.matches('/').count() == 1;
    let benches = sources(&["benches"]).into_iter().map(|source| source.path).filter(bench);
    let all = super::examples::examples().into_iter().map(|(_, source)| source.path).chain(benches);
    assert_none(
        all.filter(|path| !named.contains(path)).map(|path| format!("{path}: in no Cargo.toml")),
    );
}

/// Without its `mod` line a file of tests is not compiled, and nothing complains.
#[test]
fn every_file_of_tests_is_in_the_program_of_its_folder() {
    let all = sources(&["tests"]);
    let programs = all.iter().filter_map(|s| {
        Some((s.path.strip_suffix("main.rs")?, words(&s.code).collect::<Vec<_>>()))
    });
    let programs: Vec<_> = programs.collect();
    assert!(programs.len() > 10, "{} programs", programs.len());
    let is_lost = |path: &str| {
        programs.iter().any(|(folder, words)| {
            let module = path.strip_prefix(folder).and_then(|name| name.strip_suffix(".rs"));
            module.is_some_and(|module| {
                module != "main" && !module.contains('/') && !words.contains(&module)
            })
        })
    };
    assert_none(
        all.iter().filter(|s| is_lost(&s.path)).map(|s| format!("{}: not in its main.rs", s.path)),
    );
}

/// The part of a manifest from its features to the end of its dev-dependencies, without the one on
/// itself.
fn dependencies(manifest: &str) -> String {
    let (_, after) = manifest.split_once("\n[features]\n").unwrap_or_default();
    let (normal, after) = after.split_once("\n[dev-dependencies]\n").unwrap_or_default();
    let tests = after.split("\n\n").next().unwrap_or_default();
    let tests = tests
        .split_once("\nropewalk = {")
        .map_or(tests, |(_, rest)| rest.split_once('\n').unwrap_or_default().1);
    format!("{normal}\n{}", tests.trim_end())
}

#[test]
fn the_library_of_the_examples_has_the_features_and_dependencies_of_the_library() {
    let wanted = dependencies(&read("Cargo.toml"));
    assert!(wanted.contains("tokio"), "{wanted}");
    assert_eq!(dependencies(&read(&format!("{LEAN}/Cargo.toml"))), wanted);
}
