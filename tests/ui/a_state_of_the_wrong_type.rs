//! The function wants an `Arc<str>`, and the layer has a `&str`.

use std::sync::Arc;

use ropewalk::{Lines, Result, Server, Session, StateLayer, session_with};

async fn qotd(mut s: Session<Lines>, quote: Arc<str>) -> Result {
    s.feed(&*quote)
}

fn main() {
    let _ = Server::new()
        .listen("tcp:8007")
        .layer(StateLayer::new("An apple a day"))
        .serve(session_with(Lines::crlf(), qotd));
}
