//! What the compiler says to the usual slips: each file in `tests/ui/` makes one, and its `.stderr`
//! is the message.

use std::env;
use std::process::Command;

mod support;

/// The messages differ from version to version; these are of this one.
const RUSTC: &str = "rustc 1.95.";

#[test]
fn the_usual_slips_are_explained_by_the_compiler() {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output().expect("rustc runs");
    let version = String::from_utf8_lossy(&output.stdout);
    if !version.starts_with(RUSTC) {
        return support::skipped(&format!(
            "the messages are those of {RUSTC}*, and this is {}",
            version.trim_end()
        ));
    }
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
