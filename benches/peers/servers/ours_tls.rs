//! ropewalk over TLS: `framed` lines on a `tls:` endpoint.

use clap::Parser;
use ropewalk::{Bytes, Endpoint, Lines, Reply, Server, TlsConfig, framed, service_fn};
use ropewalk_peers::{Certificate, Result, ServerArgs, raise_descriptor_limit};

/// More than the descriptor limit lets in.
const CONNECTIONS: usize = 1_000_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    let args = ServerArgs::parse();
    raise_descriptor_limit();
    let Certificate { cert, key } = args.certificate()?;
    let endpoint = Endpoint::tcp(([127, 0, 0, 1], 0).into()).tls(TlsConfig::files(cert, key));
    Server::new()
        .listen(endpoint)
        .max_connections(CONNECTIONS)
        .on_listening(|addresses| {
            let address = addresses[0].to_string();
            println!("{}", address.trim_start_matches(|c: char| !c.is_ascii_digit()));
        })
        .serve(framed(Lines::lf(), service_fn(async |frame: Bytes| Ok(Reply::one(frame)))))
        .await
        .map_err(|error| error.to_string().into())
}
