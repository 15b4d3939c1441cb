//! An `Rc` lives across an await.

use std::rc::Rc;

use ropewalk::{Lines, Result, Session, session};

async fn count(mut s: Session<Lines>) -> Result {
    let lines = Rc::new(());
    while s.next().await?.is_some() {
        s.feed(Rc::strong_count(&lines).to_string())?;
    }
    Ok(())
}

fn main() {
    session(Lines::crlf(), count);
}
