//! `?` converts every type that implements `Error`; a boxed error does not implement it: write
//! `.map_err(Error::other)?`.

use ropewalk::layer::BoxError;
use ropewalk::{Lines, Result, Session, session};

fn look_up(_: &[u8]) -> Result<String, BoxError> {
    Err("no such key".into())
}

async fn serve(mut s: Session<Lines>) -> Result {
    while let Some(line) = s.next().await? {
        s.feed(look_up(&line)?)?;
    }
    Ok(())
}

fn main() {
    session(Lines::crlf(), serve);
}
