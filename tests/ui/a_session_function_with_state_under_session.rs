//! A function with state is for `session_with`.

use std::sync::Arc;

use ropewalk::{Lines, Result, Session, session};

async fn qotd(mut s: Session<Lines>, quote: Arc<str>) -> Result {
    s.feed(&*quote)
}

fn main() {
    session(Lines::crlf(), qotd);
}
