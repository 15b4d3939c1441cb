//! Who may speak to tracing: `middleware/src/event/`, and nobody else.

use super::{assert_none, sources, without_tests, words};

/// tracing's macros, and what enters a span, as words with blanks between them. A subscriber may
/// panic, and only `middleware/src/event/` contains that.
const BARE: [&str; 11] = [
    "tracing event",
    "tracing span",
    "tracing error",
    "tracing warn",
    "tracing info",
    "tracing debug",
    "tracing trace",
    "tracing Span",
    "tracing Instrument",
    "tracing instrument",
    "in_scope",
];

/// What logs, or makes a span, with tracing itself.
fn bare(code: &str) -> Vec<&'static str> {
    let spaced = format!(" {} ", words(code).collect::<Vec<_>>().join(" "));
    let mut found: Vec<_> =
        BARE.into_iter().filter(|bare| spaced.contains(&format!(" {bare} "))).collect();
    // A list in braces names several.
    for (at, _) in code.match_indices("tracing::{") {
        let list = code[at..].split(['}', ';']).next().unwrap_or_default();
        let is_listed = |bare: &&str| {
            bare.strip_prefix("tracing ").is_some_and(|name| words(list).any(|w| w == name))
        };
        found.extend(BARE.into_iter().filter(is_listed));
    }
    found
}

#[test]
fn every_event_and_span_goes_through_the_one_place_that_contains_panics() {
    let shipped = sources(&["src", "codecs/src", "middleware/src", "admin/src"]).into_iter();
    let others = shipped
        .filter(|s| !s.path.starts_with("middleware/src/event/") && !s.path.ends_with("/tests.rs"));
    assert_none(others.flat_map(|s| {
        let found = bare(&without_tests(&s.code));
        found.into_iter().map(move |what| format!("{}: {what}", s.path))
    }));
}

#[test]
fn the_check_can_fail() {
    assert_eq!(
        bare("tracing::warn!(x); use tracing::{Level, Span}; event!(x);"),
        ["tracing warn", "tracing Span"]
    );
    assert_eq!(bare("span.in_scope(|| x)"), ["in_scope"]);
}
