//! The bodies of the fuzz targets. No fuzzer is needed to call them: `tests/fuzz/corpus.rs` replays
//! the corpora with them.

mod client;
mod combinators;
mod drive;
mod endpoint;
mod escape;
mod hello;
mod inherited;
mod input;
mod length_prefixed;
mod lent;
mod line_raw;
mod lines;
mod netstring;
#[allow(dead_code, reason = "the examples have more in them")]
pub mod protocols;
mod proxy;
mod restart;
mod session;

pub use self::client::client;
pub use self::combinators::combinators;
pub use self::endpoint::endpoint;
pub use self::escape::escape;
pub use self::hello::hello;
pub use self::inherited::inherited;
pub use self::length_prefixed::length_prefixed;
pub use self::line_raw::line_raw;
pub use self::lines::lines;
pub use self::netstring::netstring;
pub use self::proxy::proxy;
pub use self::restart::restart;
pub use self::session::session;

/// The body of a target: it panics where a promise is broken.
pub type Target = fn(&[u8]);

/// Every target, by the name of its program and of its corpus.
pub const TARGETS: [(&str, Target); 17] = [
    ("lines", lines),
    ("line_raw", line_raw),
    ("netstring", netstring),
    ("length_prefixed", length_prefixed),
    ("combinators", combinators),
    ("endpoint", endpoint),
    ("session", session),
    ("client", client),
    ("escape", escape),
    ("proxy", proxy),
    ("hello", hello),
    ("restart", restart),
    ("inherited", inherited),
    ("memcached", |data| drop(protocols::memcached(data))),
    ("smtp", |data| drop(protocols::smtp(data))),
    ("dns", |data| drop(protocols::dns(data))),
    ("scgi", |data| drop(protocols::scgi(data))),
];
