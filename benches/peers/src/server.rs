//! The command line of every echo server here: `SERVER MODE [VARIANT]`. It prints the address it
//! listens on, then serves until it is killed.

use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;

use clap::Parser;
use socket2::{Domain, Socket, Type};

use crate::{Certificate, Mode, Result};

/// An echo server.
#[derive(Clone, Debug, Parser)]
pub struct ServerArgs {
    /// How frames are found
    pub mode: Mode,
    /// Which of the ways this program has
    #[arg(default_value = "")]
    pub variant: String,
    /// Threads of the runtime; only ours knows more than one
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Workers with a runtime each, in place of threads of one; ours only
    #[arg(long, conflicts_with = "threads")]
    pub workers: Option<usize>,
    /// The certificate of a server over TLS, PEM
    #[arg(long, requires = "key")]
    cert: Option<PathBuf>,
    /// The key to it, PEM
    #[arg(long, requires = "cert")]
    key: Option<PathBuf>,
}

impl ServerArgs {
    /// What a server over TLS shows.
    pub fn certificate(&self) -> Result<Certificate> {
        let both = self.cert.clone().zip(self.key.clone());
        let (cert, key) = both.ok_or("a server over TLS needs --cert and --key")?;
        Ok(Certificate { cert, key })
    }
}

/// A non-blocking listener on a free port of the loopback device, which is printed.
pub fn listener() -> Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    // As ours.
    socket.listen(1024)?;
    let listener = TcpListener::from(socket);
    println!("{}", listener.local_addr()?);
    std::io::stdout().flush()?;
    Ok(listener)
}
