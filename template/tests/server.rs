//! A whole server, in memory.

use ropewalk::{Server, memory};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(start_paused = true)]
async fn each_request_is_answered_in_capitals() {
    let (endpoint, connector) = memory::endpoint();
    let server = tokio::spawn(Server::new().listen(endpoint).serve({{crate_name}}::service()));
    let mut client = connector.connect().await.expect("it listens");
    client.write_all(b"0005hello0000").await.expect("it reads");
    client.shutdown().await.expect("it is open");
    let mut answers = String::new();
    client.read_to_string(&mut answers).await.expect("it closes properly");
    assert_eq!(answers, "0005HELLO0000");
    server.abort();
}
