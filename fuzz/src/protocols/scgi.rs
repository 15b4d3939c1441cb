//! The example scgi.

use ropewalk::server::Serve;
use ropewalk::{Endpoint, Netstring, Server, session};

#[allow(clippy::print_stdout, reason = "it is a program")]
#[rustfmt::skip]
#[path = "../../../examples/scgi.rs"]
mod example;

pub struct Scgi;

impl super::Protocol for Scgi {
    fn new() -> Self {
        Self
    }

    fn serve(&self, endpoint: Endpoint) -> Serve {
        Server::new().listen(endpoint).serve(session(Netstring::new(), example::scgi))
    }
}
