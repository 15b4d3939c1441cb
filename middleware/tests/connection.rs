//! A connection over whatever carries it.

use std::path::Path;

use ropewalk_middleware::{Addr, Connection, Peer, Stream};
use tokio::io::duplex;

#[test]
fn a_peers_socket_path_can_not_break_the_line_it_is_shown_in() {
    let path = Path::new("/tmp/\n\x1b[2J\u{202e}why?");
    let addr = Addr::Unix(Some(path.into()));
    assert_eq!(addr.to_string(), "unix:/tmp/%0A%1B[2J\u{202e}why%3F");
    let shown = format!("{:?}", Connection::new(Stream::from_io(duplex(1).0), Peer::new(addr)));
    assert!(shown.contains(r"peer: unix:/tmp/%0A%1B[2J\xe2\x80\xaewhy%3F"), "{shown}");
}
