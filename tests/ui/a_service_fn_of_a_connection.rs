//! `service_fn` of this crate is for frames. For connections there is `session`, or tower's
//! `service_fn`.

use ropewalk::{Connection, Server, service_fn};

fn main() {
    let _ = Server::new().listen("tcp:8007").serve(service_fn(async |connection: Connection| {
        connection.close().await;
        Ok(())
    }));
}
