//! A whole server, in memory.

use ropewalk::{Server, framed, memory, reply_fn};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(start_paused = true)]
async fn each_request_is_answered_in_capitals() {
    let service = framed({{crate_name}}::codec(), reply_fn({{crate_name}}::answer));
    let (endpoint, connector) = memory::endpoint();
    let server = tokio::spawn(Server::new().listen(endpoint).serve(service));
    let mut client = connector.connect().await.unwrap();
    client.write_all(b"0005hello0000").await.unwrap();
    client.shutdown().await.unwrap();
    let mut answers = String::new();
    client.read_to_string(&mut answers).await.unwrap();
    assert_eq!(answers, "0005HELLO0000");
    server.abort();
}
