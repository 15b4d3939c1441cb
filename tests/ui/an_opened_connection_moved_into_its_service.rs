//! What `per_connection` is given is lent. A service that needs its connection later keeps
//! `connection.info()`.

use ropewalk::{Bytes, Lines, per_connection, reply_fn};

fn main() {
    per_connection(Lines::lf(), |connection| reply_fn(move |_: Bytes| connection.peer().to_string()));
}
