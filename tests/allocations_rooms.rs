//! What a member of a room takes of memory while nothing happens.

use std::alloc::System;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};

use bytes::Bytes;
use ropewalk::connection::Stream;
use ropewalk::{Addr, Connection, Lines, Peer, Result, Room, Session, SlowConsumer, session};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::io::{DuplexStream, duplex};
use tower::Service;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const MEMBERS: usize = 1000;

async fn listens(mut s: Session<Lines>, room: Option<Room<Bytes>>) -> Result {
    let _member = room.map(|room| room.join(s.outbox(256, SlowConsumer::Disconnect)));
    while s.next().await?.is_some() {}
    Ok(())
}

type Connected = (Pin<Box<dyn Future<Output = Result> + Send>>, DuplexStream);

fn connect(room: Option<Room<Bytes>>) -> Connected {
    let mut leaf = session(Lines::lf(), move |s| listens(s, room.clone()));
    let (peer, io) = duplex(64);
    (Box::pin(leaf.call(Connection::new(Stream::from_io(io), Peer::new(Addr::Memory)))), peer)
}

fn poll(connections: &mut [Connected]) {
    for (future, _) in connections {
        assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
}

/// What so many connections own more, once they wait, than before they began.
fn owned(mut connections: Vec<Connected>, pushed_to: impl FnOnce(&mut [Connected])) -> usize {
    let region = Region::new(ALLOCATOR);
    poll(&mut connections);
    pushed_to(&mut connections);
    let change = region.change();
    change.bytes_allocated.saturating_sub(change.bytes_deallocated)
}

#[tokio::test]
async fn a_member_that_waits_takes_at_most_200_bytes_also_after_a_burst() {
    let alone = owned((0..MEMBERS).map(|_| connect(None)).collect(), |_| {});
    let room = Room::new();
    let members =
        owned((0..MEMBERS).map(|_| connect(Some(room.clone()))).collect(), |connections| {
            for _ in 0..10 {
                assert_eq!(room.push(Bytes::from_static(b"x")), MEMBERS);
            }
            poll(connections);
            assert!(room.members().iter().all(|member| member.is_empty()));
        });
    let each = members.saturating_sub(alone) / MEMBERS;
    assert!((1..=200).contains(&each), "{each} bytes");
}
