//! Try it: `cargo run --example starttls`, then `openssl s_client -starttls smtp -quiet -connect 127.0.0.1:8007`.
//!
//! As much of SMTP (RFC 5321, RFC 3207) as a client needs to encrypt the connection, and a greeting once it is.

use std::path::PathBuf;

use clap::Parser;
use ropewalk::cli::ServerArgs;
use ropewalk::{Lines, Result, Session, StateLayer, TlsConfig, session_with};

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

async fn smtp(mut s: Session<Lines>, tls: TlsConfig) -> Result {
    s.feed("220 localhost ready")?;
    while let Some(line) = s.next().await? {
        let verb = line.split(|&b| b == b' ').next().unwrap_or_default().to_ascii_uppercase();
        match (&verb[..], s.tls().map(|tls| tls.version())) {
            (b"EHLO", None) => ["250-localhost", "250 STARTTLS"].into_iter().try_for_each(|line| s.feed(line))?,
            (b"EHLO", Some(version)) => s.feed(format!("250 localhost, by {version}"))?,
            (b"STARTTLS", None) => {
                s.feed("220 go ahead")?;
                // If plaintext follows the request, the upgrade is refused and the connection ends.
                s.upgrade_tls(&tls).await?;
            }
            (b"NOOP", _) => s.feed("250 ok")?,
            (b"QUIT", _) => {
                s.feed("221 bye")?;
                break;
            }
            (_, None) => s.feed("530 must issue a STARTTLS command first")?,
            (_, Some(_)) => s.feed("502 not implemented here")?,
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result {
    let Cli { server, cert, key } = Cli::parse();
    let tls = if let Some((cert, key)) = cert.zip(key) {
        TlsConfig::files(cert, key)
    } else {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        TlsConfig::pem(made.cert.pem(), made.signing_key.serialize_pem())
    };
    tls.load()?;
    let smtp = session_with(Lines::crlf(), smtp);
    server.server().reload_tls(tls.clone()).layer(StateLayer::new(tls)).serve(smtp).await
}
