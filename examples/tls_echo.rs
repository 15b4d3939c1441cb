//! Try it: `cargo run --example tls_echo`, then `openssl s_client -quiet -connect 127.0.0.1:8007`.
//!
//! With a certificate of your own, any example does this: `--listen 'tls:8443?cert=cert.pem&key=key.pem'`. A SIGHUP has
//! the files read again.

use std::path::PathBuf;

use clap::Parser;
use ropewalk::cli::ServerArgs;
use ropewalk::{Bytes, RawBytes, Result, TlsConfig, framed, reply_fn};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    server: ServerArgs,
    /// The file with the certificate's chain, PEM; by default a certificate for localhost is made
    #[arg(long, requires = "key")]
    cert: Option<PathBuf>,
    /// The file with its key, PEM
    #[arg(long, requires = "cert")]
    key: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result {
    let Cli { server, cert, key } = Cli::parse();
    let tls = match cert.zip(key) {
        Some((cert, key)) => TlsConfig::files(cert, key),
        None => {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
            TlsConfig::pem(made.cert.pem(), made.signing_key.serialize_pem())
        }
    };
    let server = server.map_endpoints(|endpoint| endpoint.tls(tls.clone()));
    server.server().serve(framed(RawBytes, reply_fn(|bytes: Bytes| bytes))).await
}
