//! Which preamble makes room, and how long a newcomer waits.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use ropewalk_middleware::{Addr, Peer, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::{Word, accept, none_within, of};
use crate::listener::Listener;
use crate::listener::preamble::{PreambleDrop, Preambles, Step, WithPreamble};
use crate::listener::proxy::{ReadHeader, Trusted};
use crate::memory::MemoryStream;

/// Connections from any address.
struct Arrivals(mpsc::UnboundedReceiver<(Stream, Peer)>);

impl Listener for Arrivals {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<(Stream, Peer)> {
        self.0.poll_recv(cx).map(|arrival| arrival.expect("the test goes on"))
    }

    fn local_addr(&self) -> Addr {
        Addr::Memory
    }
}

/// Makes connections to a listener.
pub(super) struct Door(mpsc::UnboundedSender<(Stream, Peer)>);

impl Door {
    /// A client that has sent these bytes by the time it is accepted.
    async fn open(&self, from: impl Into<Addr>, bytes: &[u8]) -> MemoryStream {
        let (mut client, server) = MemoryStream::pair(1024);
        client.write_all(bytes).await.unwrap();
        self.0.send((Stream::boxed(server), Peer::new(from))).unwrap();
        client
    }

    pub(super) async fn from(&self, ip: &str, bytes: &[u8]) -> MemoryStream {
        self.open(Addr::Tcp((ip.parse::<IpAddr>().unwrap(), 1).into()), bytes).await
    }

    pub(super) async fn crowd(&self, ip: &str, bytes: &[u8], n: usize) -> Vec<MemoryStream> {
        let mut clients = Vec::new();
        for _ in 0..n {
            clients.push(self.from(ip, bytes).await);
        }
        clients
    }
}

fn listener_of(preambles: &Preambles, steps: Vec<Box<dyn Step>>) -> (WithPreamble, Door) {
    let (open, arrivals) = mpsc::unbounded_channel();
    (WithPreamble::new(Box::new(Arrivals(arrivals)), steps, preambles.clone()), Door(open))
}

pub(super) fn listener(max: usize) -> (WithPreamble, Preambles, Door) {
    let preambles = Preambles::new(max);
    let (listener, door) = listener_of(&preambles, vec![Box::new(Word)]);
    (listener, preambles, door)
}

/// Lets the listener accept the waiting connections.
pub(super) async fn look(listener: &mut WithPreamble) {
    none_within(listener, Duration::from_millis(1)).await;
}

/// Which of these connections are still open.
pub(super) async fn open(clients: &mut [MemoryStream]) -> Vec<bool> {
    let mut open = Vec::new();
    for client in clients {
        open.push(timeout(Duration::from_micros(1), client.read(&mut [0])).await.is_err());
    }
    open
}

fn dropped(preambles: &Preambles, reason: PreambleDrop) -> u64 {
    preambles.counts().dropped_for(reason)
}

#[tokio::test(start_paused = true)]
async fn the_address_with_the_most_silent_connections_loses_its_oldest() {
    let (mut listener, preambles, door) = listener(8);
    let mut few = door.crowd("192.0.2.1", b"", 2).await;
    let mut many = door.crowd("192.0.2.2", b"", 6).await;
    look(&mut listener).await;
    // Two newcomers of a third address: the share of each address is 2.
    let mut new = door.crowd("192.0.2.3", b"", 2).await;
    look(&mut listener).await;
    assert_eq!(open(&mut many).await, [false, false, true, true, true, true]);
    assert_eq!(open(&mut few).await, [true; 2]);
    assert_eq!(open(&mut new).await, [true; 2]);
    assert_eq!(dropped(&preambles, PreambleDrop::Silent), 2);
    assert_eq!(of(&preambles.counts()), [10, 8, 0, 0, 0, 2]);
}

#[tokio::test(start_paused = true)]
async fn silent_connections_make_room_before_connections_that_have_sent_something() {
    let (mut listener, preambles, door) = listener(8);
    let mut begun = door.crowd("192.0.2.1", b".", 4).await;
    let mut silent = door.crowd("192.0.2.1", b"", 4).await;
    look(&mut listener).await;
    let mut new = door.crowd("192.0.2.2", b"", 4).await;
    look(&mut listener).await;
    assert_eq!(open(&mut silent).await, [false; 4]);
    assert_eq!(open(&mut begun).await, [true; 4]);
    assert_eq!(open(&mut new).await, [true; 4]);
    assert_eq!(dropped(&preambles, PreambleDrop::Silent), 4);
}

#[tokio::test(start_paused = true)]
async fn a_drip_from_one_address_does_not_drop_a_connection_of_another_that_is_yet_to_speak() {
    let (mut listener, preambles, door) = listener(8);
    let _drips = door.crowd("192.0.2.1", b".", 8).await;
    look(&mut listener).await;
    let mut honest = door.from("192.0.2.2", b"").await;
    look(&mut listener).await;
    assert_eq!(dropped(&preambles, PreambleDrop::Share), 1);
    let mut drips = Vec::new();
    for _ in 0..10 {
        drips.push(door.crowd("192.0.2.1", b".", 100).await);
        none_within(&mut listener, Duration::from_millis(60)).await;
    }
    honest.write_all(b"y").await.unwrap();
    accept(&mut listener).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_was_silent_for_a_second_makes_room_before_an_address_that_has_many_under_way() {
    let (mut listener, preambles, door) = listener(12);
    let mut silent = Vec::new();
    for n in 0..4 {
        silent.push(door.from(&format!("198.51.100.{n}"), b"").await);
    }
    let mut crowd = door.crowd("192.0.2.1", b".", 8).await;
    none_within(&mut listener, Duration::from_secs(1)).await;
    let _new = door.crowd("192.0.2.2", b"", 4).await;
    look(&mut listener).await;
    assert_eq!(open(&mut silent).await, [false; 4]);
    assert_eq!(open(&mut crowd).await, [true; 8]);
    assert_eq!(dropped(&preambles, PreambleDrop::Silent), 4);
    // Now no preamble has been silent for that long. The crowd has more than its share, and silent
    // ones are dropped before it all the same.
    let _newer = door.from("192.0.2.3", b"").await;
    look(&mut listener).await;
    assert_eq!(open(&mut crowd).await, [true; 8]);
    assert_eq!((dropped(&preambles, PreambleDrop::Silent), preambles.counts().dropped()), (5, 5));
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_silent_connections_ends_no_handshake_of_an_address_that_has_many_under_way() {
    let (mut listener, preambles, door) = listener(36);
    let mut crowd = door.crowd("192.0.2.1", b".", 18).await;
    look(&mut listener).await;
    let mut flood = Vec::new();
    for n in 0..200 {
        flood.push(door.from(&format!("198.51.100.{}", n % 8), b"").await);
        none_within(&mut listener, Duration::from_millis(5)).await;
    }
    assert_eq!(open(&mut crowd).await, [true; 18]);
    assert_eq!(dropped(&preambles, PreambleDrop::Silent), 200 - 18);
}

#[tokio::test(start_paused = true)]
async fn a_crowd_that_shares_one_address_and_has_no_room_waits_and_all_of_it_passes() {
    let (mut listener, preambles, door) = listener(4);
    let began = Instant::now();
    for _ in 0..100 {
        let mut client = door.from("192.0.2.1", b".").await;
        tokio::spawn(async move {
            sleep(Duration::from_millis(100)).await;
            client.write_all(b"y").await.unwrap();
            client.read(&mut [0]).await
        });
    }
    for _ in 0..100 {
        accept(&mut listener).await;
    }
    assert!(began.elapsed() <= Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(of(&preambles.counts()), [100, 0, 100, 0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_waits_until_connections_of_its_own_address_are_old_enough() {
    for (bytes, wait) in [(&b""[..], 20), (b".", 250)] {
        let (mut listener, preambles, door) = listener(2);
        let mut clients = door.crowd("192.0.2.1", bytes, 3).await;
        none_within(&mut listener, Duration::from_millis(wait - 1)).await;
        assert_eq!(open(&mut clients).await, [true; 3]);
        none_within(&mut listener, Duration::from_millis(3)).await;
        assert_eq!(open(&mut clients).await, [false, true, true]);
        assert_eq!(of(&preambles.counts()), [3, 2, 0, 0, 0, 1]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_ipv6_host_has_one_share_and_a_mapped_address_is_one_of_ipv4() {
    for (many, one) in [
        (["2001:db8::1", "2001:db8::2", "2001:db8::ffff:3:4"], "2001:db8:0:1::1"),
        (["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1"], "::ffff:192.0.2.2"),
    ] {
        let (mut listener, _preambles, door) = listener(4);
        // The oldest of all is not dropped.
        let mut first = door.from(one, b"").await;
        let mut clients = Vec::new();
        for ip in many {
            clients.push(door.from(ip, b"").await);
        }
        look(&mut listener).await;
        let _new = door.from("203.0.113.1", b"").await;
        look(&mut listener).await;
        assert_eq!(open(&mut clients).await, [false, true, true], "{many:?}");
        assert_eq!(open(std::slice::from_mut(&mut first)).await, [true]);
    }
}

/// A proxy's header for this client.
fn header(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 192.0.2.99 1000 25\r\n").into_bytes()
}

#[tokio::test(start_paused = true)]
async fn behind_a_proxy_it_is_the_clients_address_that_counts_and_its_silence() {
    let preambles = Preambles::new(8);
    let header_step = ReadHeader::new(Trusted::new(["10.0.0.0/8".parse().unwrap()]));
    let (mut listener, door) = listener_of(&preambles, vec![Box::new(header_step), Box::new(Word)]);
    let one = header("192.0.2.1");
    let mut few = door.crowd("10.0.0.1", &header("192.0.2.2"), 2).await;
    let mut silent = door.crowd("10.0.0.1", &one, 3).await;
    let mut begun = door.crowd("10.0.0.1", &[&one[..], b"."].concat(), 3).await;
    look(&mut listener).await;
    // All come through the same proxy. One client has more than its share, and its silent preambles
    // are dropped first.
    let mut new = door.crowd("10.0.0.1", &header("192.0.2.3"), 2).await;
    look(&mut listener).await;
    assert_eq!(open(&mut silent).await, [false, false, true]);
    assert_eq!(open(&mut begun).await, [true; 3]);
    assert_eq!(open(&mut new).await, [true; 2]);
    assert_eq!(open(&mut few).await, [true; 2]);
    assert_eq!(dropped(&preambles, PreambleDrop::Silent), 2);
}

#[tokio::test(start_paused = true)]
async fn each_step_begins_with_a_silence_of_its_own() {
    let preambles = Preambles::new(2);
    let header_step = ReadHeader::new(Trusted::new(["10.0.0.0/8".parse().unwrap()]));
    let (mut listener, door) = listener_of(&preambles, vec![Box::new(header_step), Box::new(Word)]);
    let mut slow = door.from("10.0.0.1", b"").await;
    none_within(&mut listener, Duration::from_millis(200)).await;
    let silent = door.from("10.0.0.2", b"").await;
    none_within(&mut listener, Duration::from_millis(700)).await;
    slow.write_all(&header("192.0.2.1")).await.unwrap();
    none_within(&mut listener, Duration::from_millis(600)).await;
    let _new = door.from("10.0.0.3", b"").await;
    look(&mut listener).await;
    assert_eq!(
        open(&mut [slow, silent]).await,
        [true, false],
        "the one that has sent its header has just begun"
    );
}

#[tokio::test(start_paused = true)]
async fn peers_without_an_address_have_no_share() {
    let (mut listener, preambles, door) = listener(4);
    let mut unix = Vec::new();
    for _ in 0..3 {
        unix.push(door.open(Addr::Unix(None), b".").await);
    }
    let mut tcp = door.crowd("192.0.2.1", b".", 1).await;
    look(&mut listener).await;
    // No address has more than its share, and no preamble is silent: the oldest is dropped.
    let _new = door.from("192.0.2.2", b"").await;
    look(&mut listener).await;
    assert_eq!(open(&mut unix).await, [false, true, true]);
    assert_eq!(open(&mut tcp).await, [true]);
    assert_eq!(dropped(&preambles, PreambleDrop::Share), 1);
}

#[tokio::test(start_paused = true)]
async fn finished_preambles_are_accepted_one_address_after_another_and_are_never_dropped() {
    let (mut listener, preambles, door) = listener(6);
    let _many = door.crowd("192.0.2.1", b"y", 5).await;
    let _one = door.from("192.0.2.2", b"y").await;
    let mut from = Vec::new();
    for _ in 0..2 {
        let (_, peer) = poll_fn(|cx| listener.poll_accept(cx)).await;
        from.push(peer.ip().unwrap().to_string());
        // Meanwhile all others pass.
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }
    from.sort();
    assert_eq!(from, ["192.0.2.1", "192.0.2.2"]);
    assert_eq!(of(&preambles.counts())[5], 0);
    for _ in 0..4 {
        accept(&mut listener).await;
    }
    assert_eq!(of(&preambles.counts()), [6, 0, 6, 0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn all_listeners_of_a_server_share_the_slots() {
    let preambles = Preambles::new(4);
    let (mut first, to_first) = listener_of(&preambles, vec![Box::new(Word)]);
    let (mut second, to_second) = listener_of(&preambles, vec![Box::new(Word)]);
    let mut silent = to_first.crowd("192.0.2.1", b"", 4).await;
    look(&mut first).await;
    let _new = to_second.from("192.0.2.2", b"").await;
    look(&mut second).await;
    assert_eq!(open(&mut silent).await, [false, true, true, true]);
    assert_eq!(of(&preambles.counts()), [5, 4, 0, 0, 0, 1]);
    drop(first);
    tokio::task::yield_now().await;
    assert_eq!(open(&mut silent).await, [false; 4]);
    assert_eq!(of(&preambles.counts()), [5, 1, 0, 0, 0, 4]);
    assert_eq!(dropped(&preambles, PreambleDrop::Ended), 3);
}

#[tokio::test(start_paused = true)]
async fn without_descriptors_the_oldest_silent_one_is_closed_and_no_other() {
    let (mut listener, preambles, door) = listener(8);
    let mut begun = door.from("192.0.2.1", b".").await;
    let mut silent = door.crowd("192.0.2.2", b"", 2).await;
    look(&mut listener).await;
    for left in [1, 0] {
        assert!(preambles.drop_silent());
        look(&mut listener).await;
        assert_eq!(open(&mut silent).await, [false, left == 1]);
    }
    assert!(!preambles.drop_silent());
    assert_eq!(open(std::slice::from_mut(&mut begun)).await, [true]);
    assert_eq!(dropped(&preambles, PreambleDrop::Descriptors), 2);
    assert_eq!(of(&preambles.counts()), [3, 1, 0, 0, 0, 2]);
}

#[tokio::test(start_paused = true)]
async fn the_sum_of_all_ends_is_exact_and_no_more_than_the_maximum_are_under_way() {
    const MAX: usize = 16;
    let mut seed = 7_u64;
    let mut random = move |n: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % n
    };
    let (mut listener, preambles, door) = listener(MAX);
    let mut clients = HashMap::new();
    let mut accepted = 0;
    for n in 0..4000 {
        match random(5) {
            0 | 1 => {
                drop(clients.insert(n, door.from(&format!("192.0.2.{}", random(4)), b"").await));
            }
            2 => drop(clients.remove(&random(n + 1))),
            _ => {
                let bytes: &[u8] =
                    [&b"."[..], b".", b"y", b"n", b"x"][usize::try_from(random(5)).unwrap()];
                if let Some(client) = clients.get_mut(&random(n + 1))
                    && let Err(error) = client.write_all(bytes).await
                {
                    assert!(
                        [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset].contains(&error.kind()),
                        "{error}"
                    );
                }
            }
        }
        if timeout(Duration::from_millis(random(10)), accept(&mut listener)).await.is_ok() {
            accepted += 1;
        }
        let counts = preambles.counts();
        // In addition, one connection for every four slots may wait.
        assert!(counts.pending() <= MAX as u64 * 5 / 4, "{counts:?}");
        assert_eq!(counts.passed(), accepted);
    }
    let [.., passed, failed, _, dropped] = of(&preambles.counts());
    assert!(passed > 0 && failed > 0 && dropped > 0, "{:?}", preambles.counts());
    drop(listener);
    tokio::task::yield_now().await;
    assert_eq!(preambles.counts().pending(), 0);
}
