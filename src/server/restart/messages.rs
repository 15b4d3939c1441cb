//! The messages between the two processes of a hot restart.

use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;

/// The version of the protocol. It must be raised with every change in this file.
pub(super) const VERSION: u32 = 3;

/// The greeting of the new process.
pub(super) const HELLO: &[u8; 18] = b"ropewalk-restart 3";

/// From the new process: it is ready to accept. It is followed by a byte for each socket on the
/// list: `TAKEN` or `LEFT`.
pub(super) const READY: u8 = b'R';
pub(super) const TAKEN: u8 = b'T';
pub(super) const LEFT: u8 = b'L';

/// From the old process: the taken sockets belong to the new process now.
pub(super) const GO: u8 = b'G';

/// From the new process: it has received `GO`, and accepts from now on.
pub(super) const GOING: u8 = b'A';

/// The largest list of sockets, in bytes: enough for thousands.
const MAX_LIST: usize = 1024 * 1024;

/// The flags of an endpoint on the list.
const PAUSED: u8 = 1;
const REMOVED: u8 = 2;
const BESIDE: u8 = 4;

/// An endpoint of the old process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ListedEndpoint {
    /// The endpoint, without its options.
    pub(crate) endpoint: String,
    /// The name of its service.
    pub(crate) service: Arc<str>,
    /// It belongs to a server beside the one that restarts.
    pub(crate) beside: bool,
    /// The endpoint with its options, if a handle has added it: the program of the new process may
    /// not know it.
    pub(crate) added: Option<String>,
    /// The address it is bound to.
    pub(crate) address: String,
    pub(crate) paused: bool,
    /// A handle has removed it, and the program of the new process may still name it.
    pub(crate) removed: bool,
}

/// A socket on the list, or an endpoint that was removed and has no socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) place: ListedEndpoint,
    /// The path it is bound to, with device and inode, if the owner of the socket has to remove it.
    pub(super) path: Option<(PathBuf, (u64, u64))>,
}

pub(super) async fn send_list(channel: &mut UnixStream, list: &[Listed]) -> io::Result<()> {
    let mut body = Vec::new();
    for Listed { place, path } in list {
        for text in
            [&place.endpoint, &*place.service, place.added.as_deref().unwrap_or(""), &place.address]
        {
            put_bytes(&mut body, text.as_bytes())?;
        }
        let flags = [(place.paused, PAUSED), (place.removed, REMOVED), (place.beside, BESIDE)];
        body.put_u8(flags.iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum());
        let (path, (device, inode)) = match path {
            Some((path, id)) => (path.as_path(), *id),
            None => (Path::new(""), (0, 0)),
        };
        put_bytes(&mut body, path.as_os_str().as_bytes())?;
        body.put_u64(device);
        body.put_u64(inode);
    }
    let length = u32::try_from(body.len()).map_err(|_| io::Error::other("too many sockets"))?;
    channel.write_u32(length).await?;
    channel.write_all(&body).await
}

fn put_bytes(body: &mut Vec<u8>, bytes: &[u8]) -> io::Result<()> {
    body.put_u16(u16::try_from(bytes.len()).map_err(|_| io::Error::other("a name is too long"))?);
    body.put_slice(bytes);
    Ok(())
}

pub(super) async fn receive_list(channel: &mut UnixStream) -> io::Result<Vec<Listed>> {
    let length = usize::try_from(channel.read_u32().await?).unwrap_or(usize::MAX);
    if length > MAX_LIST {
        return Err(garbled());
    }
    let mut body = vec![0; length];
    channel.read_exact(&mut body).await?;
    let mut body = Bytes::from(body);
    let mut list = Vec::new();
    while body.has_remaining() {
        let place = take_place(&mut body)?;
        let path = PathBuf::from(OsString::from_vec(take_bytes(&mut body)?));
        let device = body.try_get_u64().map_err(|_| garbled())?;
        let inode = body.try_get_u64().map_err(|_| garbled())?;
        let path = (!path.as_os_str().is_empty()).then_some((path, (device, inode)));
        list.push(Listed { place, path });
    }
    Ok(list)
}

fn take_place(body: &mut Bytes) -> io::Result<ListedEndpoint> {
    let mut text = || String::from_utf8(take_bytes(body)?).map_err(|_| garbled());
    let endpoint = text()?;
    let service = text()?.into();
    let added = Some(text()?).filter(|text| !text.is_empty());
    let address = text()?;
    let flags = body.try_get_u8().map_err(|_| garbled())?;
    Ok(ListedEndpoint {
        endpoint,
        service,
        added,
        address,
        paused: flags & PAUSED != 0,
        removed: flags & REMOVED != 0,
        beside: flags & BESIDE != 0,
    })
}

fn take_bytes(body: &mut Bytes) -> io::Result<Vec<u8>> {
    let length = usize::from(body.try_get_u16().map_err(|_| garbled())?);
    if length > body.remaining() {
        return Err(garbled());
    }
    Ok(body.split_to(length).into())
}

fn garbled() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the data on the restart channel is not a list of sockets",
    )
}

/// Sends one descriptor, with one byte that carries it.
pub(super) async fn send_socket(channel: &UnixStream, socket: BorrowedFd<'_>) -> io::Result<()> {
    let send = || {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let sockets = [socket];
        // The buffer has room for one.
        control.push(SendAncillaryMessage::ScmRights(&sockets));
        sendmsg(channel.as_fd(), &[IoSlice::new(b"S")], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    };
    channel.async_io(Interest::WRITABLE, send).await
}

/// Receives one descriptor, closed on exec from the start.
pub(super) async fn receive_socket(channel: &UnixStream) -> io::Result<OwnedFd> {
    let receive = || {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let message = recvmsg(
            channel.as_fd(),
            &mut [IoSliceMut::new(&mut byte)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        if message.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut sockets = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
            _ => None,
        });
        sockets.next().ok_or_else(|| {
            io::Error::other("an announced socket did not arrive; too many open files?")
        })
    };
    channel.async_io(Interest::READABLE, receive).await
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::fd::AsFd;

    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, UnixStream};

    use super::{
        HELLO, Listed, ListedEndpoint, VERSION, receive_list, receive_socket, send_list,
        send_socket,
    };

    #[test]
    fn the_greeting_names_the_version() {
        assert!(HELLO.ends_with(format!(" {VERSION}").as_bytes()));
    }

    #[tokio::test]
    async fn a_list_and_its_sockets_arrive_as_they_were() {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        let place = |endpoint: &str| ListedEndpoint {
            endpoint: endpoint.to_owned(),
            service: "main".into(),
            ..ListedEndpoint::default()
        };
        let added = Some("tcp:127.0.0.1:0?backlog=7".to_owned());
        let list = [
            Listed {
                place: ListedEndpoint { added, paused: true, ..place("tcp:127.0.0.1:0") },
                path: None,
            },
            Listed { place: place("unix:x%0Ay"), path: Some(("/x\ny".into(), (7, u64::MAX))) },
            Listed { place: ListedEndpoint { beside: true, ..place("tcp:8008") }, path: None },
            Listed { place: ListedEndpoint { removed: true, ..place("tcp:8007") }, path: None },
        ];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        send_list(&mut a, &list).await.unwrap();
        for _ in &list {
            send_socket(&a, listener.as_fd()).await.unwrap();
        }
        assert_eq!(receive_list(&mut b).await.unwrap(), list);
        for _ in &list {
            let received = std::net::TcpListener::from(receive_socket(&b).await.unwrap());
            assert_eq!(received.local_addr().unwrap(), listener.local_addr().unwrap());
        }
        drop(a);
        assert_eq!(receive_socket(&b).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn a_list_that_is_cut_or_too_long_is_an_error() {
        for bytes in [&[0, 0, 0, 3, 0, 9, b'x'][..], &[0xff; 8], &[0, 0, 0, 9, 1]] {
            let (mut a, mut b) = UnixStream::pair().unwrap();
            a.write_all(bytes).await.unwrap();
            drop(a);
            assert!(receive_list(&mut b).await.is_err(), "{bytes:?}");
        }
    }
}
