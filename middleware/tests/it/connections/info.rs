//! What others know of a connection.

use std::sync::Arc;

use ropewalk_middleware::{Addr, CloseReason, Connection, Peer, ReadDeadlines};
use tokio::net::UnixStream;

fn connection() -> Connection {
    let (end, _) = UnixStream::pair().unwrap();
    Connection::accepted(end.into(), Peer::new(Addr::Memory), 3)
}

#[tokio::test]
async fn there_is_one_value_of_each_type() {
    let connection = connection();
    let info = connection.info();
    assert_eq!(info.get::<u32>(), None);
    assert_eq!(info.insert(1_u32), None);
    assert_eq!(info.insert("text"), None);
    assert_eq!(connection.info().insert(2_u32).as_deref(), Some(&1));
    assert_eq!(info.get::<u32>(), Some(Arc::new(2)));
    assert_eq!(info.get::<&str>().as_deref(), Some(&"text"));
    assert_eq!(info.get::<u64>(), None);
}

#[tokio::test]
async fn it_outlives_the_connection_and_tells_how_that_ended() {
    let connection = connection();
    let info = connection.closing().info();
    assert_eq!((info.id(), info.listener()), (connection.id(), 3));
    info.abort();
    connection.closing().settle(true);
    drop(connection);
    assert_eq!(info.closing().reason(), Some(CloseReason::Aborted));
    assert_eq!(
        format!("{info:?}"),
        format!("ConnectionInfo {{ id: {}, peer: memory:, listener: 3, .. }}", info.id())
    );
}

#[tokio::test]
async fn the_local_address_is_known_where_it_was_noted() {
    let plain = connection();
    assert_eq!(plain.info().local(), None);
    let noted = connection().with_local(Addr::Memory);
    assert_eq!(noted.info().local(), Some(&Addr::Memory));
    assert_eq!(noted.local(), Addr::Memory);
}

#[tokio::test]
async fn deadlines_given_by_a_handle_and_by_the_owner_replace_each_other() {
    let mut connection = connection();
    let quick = ReadDeadlines::default();
    connection.info().set_read_deadlines(ReadDeadlines::OFF);
    assert_eq!(connection.given_read_deadlines(), Some(ReadDeadlines::OFF));
    connection.set_read_deadlines(quick);
    assert_eq!(connection.given_read_deadlines(), Some(quick));
    connection.info().set_read_deadlines(ReadDeadlines::OFF);
    assert_eq!(connection.read_deadlines(), ReadDeadlines::OFF);
}
