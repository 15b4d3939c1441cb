//! Hostile bytes before a TLS handshake and inside it.

use std::sync::OnceLock;
use std::time::Duration;

use ropewalk::memory::{self, MemoryStream};
use ropewalk::{Bytes, Lines, Server, TlsConfig, framed, reply_fn};
use tokio::io::{AsyncReadExt, AsyncWriteExt, split};
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;
use tokio::time::timeout;

/// More virtual time than a handshake may take.
const LONG: Duration = Duration::from_secs(3600);

/// What a client says first that wants TLS 1.3, or no more than TLS 1.2: a whole record each,
/// recorded of a common client.
const TLS_13: &[u8] = include_bytes!("hello/tls13.bin");
const TLS_12: &[u8] = include_bytes!("hello/tls12.bin");

/// The type of a record with an alert, and of one with a handshake message; the version that stands
/// in either; the type of a ClientHello.
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const VERSION: [u8; 2] = [3, 1];
const CLIENT_HELLO: u8 = 1;

thread_local!(static RUNTIME: Runtime = runtime());

fn runtime() -> Runtime {
    let built = Builder::new_current_thread().enable_all().start_paused(true).build();
    built.unwrap_or_else(|error| panic!("no runtime: {error}"))
}

/// A certificate for nobody, made once.
fn config() -> TlsConfig {
    static CONFIG: OnceLock<TlsConfig> = OnceLock::new();
    let make = || match rcgen::generate_simple_self_signed(["localhost".to_owned()]) {
        Ok(made) => TlsConfig::pem(made.cert.pem(), made.signing_key.serialize_pem()),
        Err(error) => panic!("no certificate: {error}"),
    };
    CONFIG.get_or_init(make).clone()
}

/// The first byte says what the others are, so that the fuzzer need not find it: all that is sent,
/// the body of a record, that of a ClientHello, or a change of one that is well and what follows
/// it.
fn stream(data: &[u8]) -> Option<Vec<u8>> {
    let (&choice, rest) = data.split_first()?;
    let record = |body: &[u8]| {
        let len = u16::try_from(body.len()).ok()?;
        Some([&[HANDSHAKE], &VERSION[..], &len.to_be_bytes(), body].concat())
    };
    match choice % 5 {
        0 => Some(rest.to_vec()),
        1 => record(rest),
        2 => {
            let len = u32::try_from(rest.len()).ok()?.to_be_bytes();
            record(&[&[CLIENT_HELLO], &len[1..], rest].concat())
        }
        whole => {
            let (&[at, change], behind) = rest.split_first_chunk()?;
            let mut hello = if whole == 3 { TLS_13 } else { TLS_12 }.to_vec();
            if let Some(byte) = hello.get_mut(usize::from(at) * 2) {
                *byte ^= change;
            }
            Some([&hello, behind].concat())
        }
    }
}

/// What a server came to, and what it said.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    preambles: u64,
    said: Vec<u8>,
}

/// No peer is served without a finished handshake, nothing is left of one, and a refused stream is
/// refused however it is cut.
pub fn hello(data: &[u8]) {
    let Some(bytes) = stream(data) else { return };
    let size = 1 + usize::from(data[data.len() - 1]);
    RUNTIME.with(|runtime| {
        let whole = runtime.block_on(handshake(&[&bytes]));
        let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
        let cut = runtime.block_on(handshake(&pieces));
        assert_eq!(whole.preambles, cut.preambles);
        // Anything else begins with a random number of the server's.
        let is_told = |said: &[u8]| said.first().is_none_or(|&kind| kind == ALERT);
        if is_told(&whole.said) || is_told(&cut.said) {
            assert_eq!(whole.said, cut.said, "cut into pieces of {size}");
        }
    });
}

async fn handshake(pieces: &[&[u8]]) -> Outcome {
    let (endpoint, connector) = memory::endpoint();
    let echo = framed(Lines::any(), reply_fn(|line: Bytes| line));
    let bound = Server::new().listen(endpoint.tls(config())).serve(echo).bind().await;
    let Ok(serve) = bound else { panic!("a memory endpoint can be bound") };
    let handle = serve.handle();
    let server = tokio::spawn(serve);
    let Ok(client) = connector.connect().await else { panic!("the server listens") };
    let Ok(said) = timeout(LONG, talk(client, pieces)).await else {
        panic!("a client waits for ever")
    };
    handle.drain(Duration::from_secs(60));
    let over = timeout(LONG, server).await;
    assert!(matches!(over, Ok(Ok(Ok(())))), "{over:?}");
    let (counts, preambles) = (handle.counts(), handle.preambles());
    assert_eq!((counts.accepted(), preambles.pending()), (0, 0), "{counts:?}, {preambles:?}");
    assert_eq!(handle.memory().in_use(), 0);
    Outcome { preambles: preambles.begun(), said }
}

async fn talk(client: MemoryStream, pieces: &[&[u8]]) -> Vec<u8> {
    let (mut read, mut write) = split(client);
    let say = async {
        for piece in pieces {
            if write.write_all(piece).await.is_err() {
                break;
            }
            yield_now().await;
        }
        drop(write.shutdown().await);
    };
    let mut said = Vec::new();
    let (_, _) = tokio::join!(say, read.read_to_end(&mut said));
    said
}
