use ropewalk::{Bytes, Lines, Reply, Result, Server, framed};

async fn echo(line: Bytes) -> Result<Reply<Bytes>> {
    Ok(Reply::one(line))
}

fn main() {
    // It wants `service_fn(echo)`.
    let _ = Server::new().listen("tcp:8007").serve(framed(Lines::lf(), echo));
}
