//! An async closure lends what it has captured, or moves it into its first future: `session_with`,
//! or a closure that clones what it has captured and returns `async move { … }`.

use std::sync::Arc;

use ropewalk::{Lines, Session, session};

fn main() {
    let greeting: Arc<str> = "hello".into();
    session(Lines::crlf(), async move |mut s: Session<Lines>| {
        s.feed(&*greeting)?;
        Ok(())
    });
}
