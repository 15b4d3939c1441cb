//! What a peer's bytes look like in a log line.

use std::cell::RefCell;
use std::fmt::Write;

use ropewalk_middleware::{ESCAPED_MAX, Escaped};

/// Room for two shown values: written over and over.
#[derive(Default)]
struct Shown {
    display: String,
    debug: String,
}

thread_local!(static SHOWN: RefCell<Shown> = RefCell::default());

/// Any bytes stay on their line, within the bound, and can be told from others as far as they are
/// shown.
pub fn escape(data: &[u8]) {
    SHOWN.with_borrow_mut(|shown| {
        check(Escaped::new(data), data, shown);
        if let Ok(text) = std::str::from_utf8(data) {
            check(Escaped::display(&text), data, shown);
        }
    });
}

fn check(escaped: Escaped<'_>, data: &[u8], shown: &mut Shown) {
    let Shown { display, debug } = shown;
    display.clear();
    debug.clear();
    assert!(write!(display, "{escaped}").is_ok() && write!(debug, "{escaped:?}").is_ok());
    assert!(display.len() <= ESCAPED_MAX, "{} bytes", display.len());
    assert!(
        display.bytes().all(|byte| (0x20..=0x7e).contains(&byte)),
        "{display:?} is not fit for a log"
    );
    assert_eq!(debug.strip_prefix('"').and_then(|text| text.strip_suffix('"')), Some(&display[..]));

    let mut whole = data.iter().flat_map(|byte| std::ascii::escape_default(*byte));
    // There is a tail only if something was cut, even if the bytes themselves look like one.
    if data.len() <= ESCAPED_MAX && whole.clone().count() <= ESCAPED_MAX {
        assert!(whole.eq(display.bytes()), "another text");
        return;
    }
    let Some(shown) = display.strip_suffix(" bytes)").and_then(|text| text.rfind("...(")) else {
        panic!("{display:?} does not say that it was cut");
    };
    assert_eq!(display[shown + 4..].trim_end_matches(" bytes)").parse(), Ok(data.len()));
    assert!(display.bytes().take(shown).all(|byte| whole.next() == Some(byte)), "another text");
    // Cut at a whole escape: what is shown are the first bytes and nothing of the next.
    let mut len = 0;
    let ends = data.iter().map(|byte| {
        len += std::ascii::escape_default(*byte).len();
        len
    });
    assert!(
        shown == 0 || ends.take(ESCAPED_MAX).any(|end| end == shown),
        "{display:?} is cut within an escape"
    );
}
