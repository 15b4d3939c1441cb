//! The lines of one connection go to all: the variants are `room` (ropewalk's `Room` of outboxes),
//! `broadcast` (tokio's channel of that name and `select!`, as the example `chat` was before there
//! were rooms), `hand` (a task for each connection that drains a channel) and `epoll`, one loop
//! that writes to all what it has read.
//!
//! The first line of a connection is answered to itself alone, so that its client knows that it
//! takes part.

use std::io::{ErrorKind, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use clap::Parser;
use futures_util::StreamExt;
use ropewalk::{Lines, Room, Server, Session, SlowConsumer, session};
use ropewalk_peers::{Result, ServerArgs, listener, raise_descriptor_limit};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::mpsc;
use tokio_util::codec::FramedRead;

/// More than the descriptor limit lets in.
const CONNECTIONS: usize = 1_000_000;
/// The most lines that wait for one connection.
const LINES: usize = 1024;
const LISTENER: u64 = u64::MAX;

fn main() -> Result {
    let args = ServerArgs::parse();
    raise_descriptor_limit();
    if args.variant == "epoll" {
        return by_epoll();
    }
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        match &*args.variant {
            "hand" => by_hand().await,
            "broadcast" => by_broadcast().await,
            _ => in_a_room().await,
        }
    })
}

fn server() -> Server {
    Server::new().listen("tcp:127.0.0.1:0").max_connections(CONNECTIONS).on_listening(|addresses| {
        let address = addresses[0].to_string();
        println!("{}", address.trim_start_matches("tcp:"));
    })
}

async fn in_a_room() -> Result {
    let room = Room::new();
    let leaf = session(Lines::lf(), move |s| member(s, room.clone()));
    server().serve(leaf).await.map_err(|error| error.to_string().into())
}

async fn member(mut s: Session<Lines>, room: Room<Bytes>) -> ropewalk::Result {
    let _me = room.join(s.outbox(LINES, SlowConsumer::Disconnect));
    let Some(first) = s.next().await? else { return Ok(()) };
    s.feed(first)?;
    while let Some(line) = s.next().await? {
        room.send(line).await;
    }
    Ok(())
}

async fn by_broadcast() -> Result {
    let (said, _) = broadcast::channel(LINES);
    let leaf = session(Lines::lf(), move |s| guest(s, said.clone()));
    server().serve(leaf).await.map_err(|error| error.to_string().into())
}

async fn guest(mut s: Session<Lines>, room: broadcast::Sender<Bytes>) -> ropewalk::Result {
    let mut heard = room.subscribe();
    let Some(first) = s.next().await? else { return Ok(()) };
    s.feed(first)?;
    loop {
        tokio::select! {
            line = s.next() => match line? {
                Some(line) => drop(room.send(line)),
                None => return Ok(()),
            },
            said = heard.recv() => match said {
                Ok(line) => s.feed(line)?,
                // The load generator finds the missing line.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ok(()),
            },
        }
    }
}

type Members = Arc<Mutex<Vec<mpsc::Sender<Bytes>>>>;

async fn by_hand() -> Result {
    let listener = TcpListener::from_std(listener()?)?;
    let members = Members::default();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(read(stream, Arc::clone(&members)));
    }
}

/// Reads lines, and puts each into the channels of all.
async fn read(stream: TcpStream, members: Members) {
    let (read, write) = stream.into_split();
    let (send, receive) = mpsc::channel(LINES);
    members.lock().unwrap_or_else(PoisonError::into_inner).push(send.clone());
    tokio::spawn(drain(receive, write));
    let mut lines = FramedRead::new(read, Lines::lf());
    let Some(Ok(first)) = lines.next().await else { return };
    drop(send.try_send(first));
    while let Some(Ok(line)) = lines.next().await {
        let members = members.lock().unwrap_or_else(PoisonError::into_inner);
        members.iter().for_each(|member| drop(member.try_send(line.clone())));
    }
}

/// Writes all that waits in the channel at once.
async fn drain(mut lines: mpsc::Receiver<Bytes>, mut write: OwnedWriteHalf) {
    let (mut waiting, mut out) = (Vec::new(), BytesMut::new());
    while lines.recv_many(&mut waiting, LINES).await > 0 {
        for line in waiting.drain(..) {
            out.extend_from_slice(&line);
            out.extend_from_slice(b"\n");
        }
        if write.write_all(&out).await.is_err() {
            return;
        }
        out.clear();
    }
}

/// Each connection with whether its first line has come. The load generator reads all that is sent,
/// so that a socket which takes less is an error here.
fn by_epoll() -> Result {
    let listener = listener()?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut connections: Vec<(std::net::TcpStream, bool)> = Vec::new();
    let (mut events, mut scratch) = (Vec::with_capacity(1024), vec![0; 64 * 1024]);
    loop {
        events.clear();
        match epoll::wait(&epoll, spare_capacity(&mut events), None) {
            Err(Errno::INTR) => continue,
            waited => waited?,
        };
        for event in &events {
            if event.data.u64() == LISTENER {
                let stream = match listener.accept() {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                    accepted => accepted?.0,
                };
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                let data = EventData::new_u64(connections.len() as u64);
                epoll::add(&epoll, &stream, data, EventFlags::IN | EventFlags::ET)?;
                connections.push((stream, false));
                continue;
            }
            let (connection, joined) = &mut connections[event.data.u64() as usize];
            let read = match connection.read(&mut scratch) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                read => read?,
            };
            let lines = &scratch[..read];
            if std::mem::replace(joined, true) {
                connections.iter_mut().try_for_each(|(connection, _)| connection.write_all(lines))?;
            } else {
                connection.write_all(lines)?;
            }
        }
    }
}
