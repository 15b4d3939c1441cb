//! What the two processes of a hot restart say to one another.

use std::io;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;

#[allow(dead_code, reason = "it is a part of the library, and has more in it")]
#[path = "../../src/server/restart/messages.rs"]
mod messages;

use self::messages::{Listed, receive_list, receive_socket, send_list};

thread_local!(static RUNTIME: Runtime = runtime());

fn runtime() -> Runtime {
    let built = Builder::new_current_thread().enable_all().build();
    built.unwrap_or_else(|error| panic!("no runtime: {error}"))
}

/// A list is the same however its bytes come, what is read is sent as it was, and no socket is
/// taken where none was passed.
///
/// The first byte chooses the pieces, and whether the length of the list is put before the others.
pub fn restart(data: &[u8]) {
    let Some((&choice, rest)) = data.split_first() else { return };
    let bytes = match u32::try_from(rest.len()) {
        Ok(len) if choice & 1 == 1 => [&len.to_be_bytes(), rest].concat(),
        _ => rest.to_vec(),
    };
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let whole = receive(&[&bytes]).await;
            let pieces: Vec<&[u8]> = bytes.chunks(1 + usize::from(choice >> 1)).collect();
            let cut = receive(&pieces).await;
            assert_eq!(whole.as_ref().ok(), cut.as_ref().ok(), "{whole:?}, and cut {cut:?}");
            if let Ok(list) = whole {
                comes_back(&list).await;
            }
        });
    });
}

/// What is received of these pieces, behind which the other side leaves.
async fn receive(pieces: &[&[u8]]) -> io::Result<Vec<Listed>> {
    let (mut ours, mut theirs) = pair();
    let say = async {
        for piece in pieces {
            if theirs.write_all(piece).await.is_err() {
                break;
            }
            yield_now().await;
        }
        drop(theirs);
    };
    let hear = async {
        let list = receive_list(&mut ours).await?;
        // What follows carries no socket.
        while let Err(error) = receive_socket(&ours).await {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                return Ok(list);
            }
        }
        panic!("a socket came that nobody sent")
    };
    tokio::join!(say, hear).1
}

async fn comes_back(list: &[Listed]) {
    let (mut ours, mut theirs) = pair();
    let (sent, received) = tokio::join!(send_list(&mut theirs, list), receive_list(&mut ours));
    assert!(sent.is_ok(), "{sent:?}");
    assert_eq!(received.ok().as_deref(), Some(list));
}

fn pair() -> (UnixStream, UnixStream) {
    UnixStream::pair().unwrap_or_else(|error| panic!("no sockets: {error}"))
}
