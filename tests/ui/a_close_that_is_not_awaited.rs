//! A lingering close that is dropped at once.
#![deny(unused_must_use)]

use ropewalk::Connection;

async fn _farewell(connection: Connection) {
    connection.close();
}

fn main() {}
