//! The inputs of the fuzz targets, replayed without a fuzzer.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use crate::targets;

/// What a corpus may hold.
const MAX_FILES: usize = 60;
const MAX_BYTES: usize = 64 * 1024;

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries =
        fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// Replays a corpus, and names the inputs that fail.
fn replay(target: &str) {
    let (_, body) = targets::TARGETS.into_iter().find(|(name, _)| *name == target).unwrap();
    let inputs = corpus(target);
    assert!(!inputs.is_empty(), "the corpus of {target} is empty");
    let failed = inputs.iter().filter(|(_, input)| catch_unwind(|| body(input)).is_err());
    let failed: Vec<_> = failed
        .map(|(path, input)| format!("{}: {}", path.display(), input.escape_ascii()))
        .collect();
    assert!(failed.is_empty(), "\n{}\n", failed.join("\n"));
}

macro_rules! replayed {
    ($($target:ident)*) => {
        $(#[test]
        fn $target() {
            replay(stringify!($target));
        })*

        /// Every target has a test here, a program, and a corpus within its bounds.
        #[test]
        fn every_target_is_replayed_and_its_corpus_small() {
            assert_eq!(targets::TARGETS.map(|(name, _)| name), [$(stringify!($target)),*]);
            for (target, _) in targets::TARGETS {
                let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fuzz/fuzz_targets/{target}.rs"));
                assert!(program.is_file(), "{}", program.display());
                let inputs = corpus(target);
                let bytes: usize = inputs.iter().map(|(_, input)| input.len()).sum();
                assert!(inputs.len() <= MAX_FILES && bytes <= MAX_BYTES, "{target}: {} files, {bytes} bytes", inputs.len());
            }
        }
    };
}

replayed! {
    lines line_raw netstring length_prefixed combinators endpoint session client escape proxy hello restart inherited
    memcached smtp dns scgi
}
