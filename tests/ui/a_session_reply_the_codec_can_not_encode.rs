//! The same in a session.

use ropewalk::{Lines, Result, Session};

struct Answer;

async fn serve(mut s: Session<Lines>) -> Result {
    s.feed(Answer)
}

fn main() {
    ropewalk::session(Lines::crlf(), serve);
}
