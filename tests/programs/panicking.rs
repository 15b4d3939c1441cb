//! A server whose service panics on its first connection and answers the second. For `panic =
//! "abort"`, which a test can't be built with: `.ci/run` builds this with it, and expects the
//! process to be aborted.

use ropewalk::{Bytes, Lines, Result, Server, framed, memory, service_fn};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    let (endpoint, connector) = memory::endpoint();
    let answer =
        service_fn(async |line: Bytes| if line == "fall" { panic!("as asked") } else { Ok(line) });
    let server = tokio::spawn(Server::new().listen(endpoint).serve(framed(Lines::lf(), answer)));

    let mut first = connector.connect().await?;
    first.write_all(b"fall\n").await?;
    // It is closed, with or without a reset.
    drop(first.read_to_end(&mut Vec::new()).await);

    let mut second = connector.connect().await?;
    second.write_all(b"go on\n").await?;
    let mut answer = [0; 6];
    second.read_exact(&mut answer).await?;
    assert_eq!(&answer, b"go on\n");
    server.abort();
    Ok(())
}
