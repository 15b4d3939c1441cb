//! The function wants state, and no `StateLayer` gives it.

use std::sync::Arc;

use ropewalk::{Lines, Result, Server, Session, session_with};

async fn qotd(mut s: Session<Lines>, quote: Arc<str>) -> Result {
    s.feed(&*quote)
}

fn main() {
    let _ = Server::new().listen("tcp:8007").serve(session_with(Lines::crlf(), qotd));
}
