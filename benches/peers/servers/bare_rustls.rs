//! tokio-rustls by hand: a loop that accepts and spawns, one read buffer for all connections of the
//! thread, and one write for all whole lines of a read. `framed` is the same loop around a `Framed`
//! of tokio-util, so that each line is somebody's own, and `raw` sends back what it reads.
//!
//! It has what a server over TLS can't leave out, the goodbye at the end among it, and nothing
//! else: no limit of a line's length, no deadline, no cap on handshakes.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use clap::Parser;
use ropewalk_peers::{Result, ServerArgs, coalesced, listener, raise_descriptor_limit};
use rustls::ServerConfig;
use rustls::crypto::ring;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::codec::{Framed, LinesCodec};

/// What one read may bring.
const READ: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    let args = ServerArgs::parse();
    raise_descriptor_limit();
    let (chain, key) = args.certificate()?.read()?;
    // The defaults of rustls, as ours has them: TLS 1.3 when the peer speaks it, and two tickets
    // after a handshake.
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (raw, framed) = (args.variant == "raw", args.variant == "framed");
    let listener = TcpListener::from_std(listener()?)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let Ok(mut tls) = acceptor.accept(stream).await else { return };
            if framed {
                let mut lines = Framed::new(&mut tls, LinesCodec::new());
                lines.set_backpressure_boundary(READ);
                coalesced::<_, _, String, _>(lines).await;
                let _ = tls.shutdown().await;
                return;
            }
            // Whatever ended it ends this connection alone.
            let _ = echo(&mut tls, raw).await;
            let _ = tls.shutdown().await;
        });
    }
}

async fn echo(tls: &mut TlsStream<TcpStream>, raw: bool) -> io::Result<()> {
    // Half a line, and the answers. Once made they are kept, for they cost nothing then.
    let (mut rest, mut out) = (Vec::new(), Vec::new());
    loop {
        if poll_fn(|cx| poll_answers(tls, raw, &mut rest, &mut out, cx)).await? == 0 {
            return Ok(());
        }
        if !out.is_empty() {
            tls.write_all(&out).await?;
            tls.flush().await?;
            out.clear();
        }
    }
}

/// Reads once, and puts the answers to it into `out`; how many bytes were read.
fn poll_answers(
    tls: &mut TlsStream<TcpStream>,
    raw: bool,
    rest: &mut Vec<u8>,
    out: &mut Vec<u8>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut buf = ReadBuf::new(scratch);
        ready!(Pin::new(tls).poll_read(cx, &mut buf))?;
        let read = buf.filled();
        if raw {
            out.extend_from_slice(read);
        } else if rest.is_empty() {
            let used = echo_lines(read, out);
            rest.extend_from_slice(&read[used..]);
        } else {
            rest.extend_from_slice(read);
            let used = echo_lines(rest, out);
            rest.drain(..used);
        }
        Poll::Ready(Ok(read.len()))
    })
}

/// Writes each whole line anew; how many bytes they were.
fn echo_lines(bytes: &[u8], out: &mut Vec<u8>) -> usize {
    let mut used = 0;
    while let Some(length) = memchr::memchr(b'\n', &bytes[used..]) {
        out.extend_from_slice(&bytes[used..used + length]);
        out.push(b'\n');
        used += length + 1;
    }
    used
}
