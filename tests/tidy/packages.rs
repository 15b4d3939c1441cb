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

/// The folders of tests, one for each package that has any.
const TESTS: [&str; 5] = ["tests", "codecs/tests", "laws/tests", "middleware/tests", "admin/tests"];

/// The files of these that are in no program: without its `mod` line a file is not compiled, and
/// nothing complains. A folder that has neither `main.rs` nor `mod.rs` is for other things.
fn lost(files: &[(&str, &str)]) -> Vec<String> {
    let text = |path: String| files.iter().find(|(other, _)| *other == path).map(|(_, text)| text);
    let is_lost = |path: &str| {
        let module = path.trim_end_matches(".rs").trim_end_matches("/mod");
        let Some((folder, name)) = module.rsplit_once('/') else { return false };
        let above =
            ["main", "mod"].into_iter().find_map(|file| text(format!("{folder}/{file}.rs")));
        name != "main" && above.is_some_and(|text| words(text).all(|word| word != name))
    };
    let lost = files.iter().filter(|(path, _)| is_lost(path));
    lost.map(|(path, _)| format!("{path}: not in the program of its folder")).collect()
}

#[test]
fn every_file_of_tests_is_in_the_program_of_its_folder() {
    let all = sources(&TESTS);
    let files: Vec<_> = all.iter().map(|s| (s.path.as_str(), s.code.as_str())).collect();
    assert!(files.len() > 200, "{} files", files.len());
    assert_none(lost(&files));
}

#[test]
fn a_file_without_its_mod_line_is_found() {
    let main = ("t/it/main.rs", "mod a; mod b;");
    let files = [main, ("t/it/a.rs", ""), ("t/it/b/mod.rs", "mod c;"), ("t/it/b/c.rs", "")];
    assert_eq!(lost(&files), [""; 0]);
    assert_eq!(lost(&[main, ("t/it/c.rs", "")]), ["t/it/c.rs: not in the program of its folder"]);
    assert_eq!(lost(&[main, ("t/it/c/mod.rs", "")]).len(), 1);
    assert_eq!(lost(&[main, ("t/it/b/mod.rs", ""), ("t/it/b/c.rs", "")]).len(), 1);
    assert_eq!(lost(&[("t/ui/a.rs", ""), ("t/alone.rs", "")]), [""; 0]);
}

/// The most programs of tests. Each is linked on its own, so a new file goes into one that is there;
/// a new program is for tests that own their process.
const MAX_PROGRAMS: usize = 28;

#[test]
fn a_new_file_of_tests_goes_into_a_program_that_is_there() {
    let is_program = |folder: &&str, path: &str| {
        let path = path.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'));
        path.is_some_and(|path| {
            !path.contains('/') || path.matches('/').count() == 1 && path.ends_with("/main.rs")
        })
    };
    let all = sources(&TESTS);
    let programs = all.iter().filter(|s| TESTS.iter().any(|folder| is_program(folder, &s.path)));
    let programs: Vec<&str> = programs.map(|s| s.path.as_str()).collect();
    assert!(programs.len() <= MAX_PROGRAMS, "{} programs: {programs:?}", programs.len());
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
