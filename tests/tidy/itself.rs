//! The checks can fail.

use super::{
    blank, long_functions, rust_versions, unexplained_allows, without_tests, words, wrong_imports,
};

#[test]
fn the_checks_can_fail() {
    let long = format!(
        "fn short() {{}} fn long(a: [u8; 2]) -> char {{\n{}'}}'\n}}",
        "x(\"}\"); // }\n".repeat(60)
    );
    assert_eq!(long_functions(&blank(&long)), ["long (63 lines)"]);
    let lib = "pub use server::{Handle, Server}; pub use wire::Wire;";
    assert_eq!(
        wrong_imports("wire", "use crate::{Server, tls};", lib),
        ["wire uses crate::Server"]
    );
    assert_eq!(wrong_imports("tls", "crate::wire::x()", lib), ["tls uses crate::wire"]);
    assert_eq!(
        wrong_imports("server", "use crate::wire::Wire; use crate::tls::Error;", lib),
        [""; 0]
    );
    assert_eq!(wrong_imports("other", "", lib).len(), 1);
    assert_eq!(
        without_tests("a #[cfg(test)] mod t { use crate::x; } b #[cfg(test)] mod t; c"),
        "a  b  c"
    );
    assert_eq!(rust_versions("`rust-version` is 1.88: so. MSRV 1.85."), ["1.88", "1.85"]);
    assert_eq!(
        unexplained_allows("[workspace.lints.rust]\na = \"allow\"\n# so\nb = \"allow\""),
        ["a = \"allow\""]
    );
}

#[test]
fn comments_strings_and_characters_are_not_code() {
    let text = "a/*{/*{*/{*/b\"\\\"{\"c'{'d'\\''e r#\"\"{\"#f b'\"'g &'a h // {\ni";
    let words: Vec<String> = words(&blank(text)).map(str::to_owned).collect();
    assert_eq!(words, ["a", "b", "c", "d", "e", "f", "b", "g", "a", "h", "i"]);
    assert!(!blank(text).contains('{'));
}
