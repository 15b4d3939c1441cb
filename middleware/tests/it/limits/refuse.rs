//! A refused peer is told so, and refusals are bounded themselves.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use ropewalk_middleware::limit::{MAX_REFUSAL_TIME, MAX_REFUSALS};
use ropewalk_middleware::{CloseReason, Connection, ConnectionLimitLayer, Peer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::common::{Hold, connection, connection_on, settle};

/// A connection over TCP whose peer had sent `sent` bytes before it was accepted.
async fn tcp(sent: usize) -> io::Result<(Connection, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut peer = TcpStream::connect(listener.local_addr()?).await?;
    peer.write_all(&vec![b'x'; sent]).await?;
    let (stream, addr) = listener.accept().await?;
    // Registered anew: the runtime has not heard yet that it can be written to.
    let stream = TcpStream::from_std(stream.into_std()?)?;
    Ok((Connection::new(stream, Peer::new(addr)), peer))
}

#[tokio::test]
async fn a_refused_peer_that_has_sent_100_kb_gets_the_text_and_the_end_and_no_reset() {
    let mut service =
        ConnectionLimitLayer::new(0).refuse_with("Too many connections\r\n").layer(Hold::default());
    let (ours, mut peer) = tcp(100 << 10).await.unwrap();
    let (closing, stats) = (ours.closing(), ours.stats());
    let refusal = tokio::spawn(service.ready().await.unwrap().call(ours));
    // Only once everything was sent, and more, does the peer look.
    peer.write_all(&[b'y'; 1000]).await.unwrap();
    let mut text = String::new();
    peer.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "Too many connections\r\n");
    drop(peer);
    refusal.await.unwrap().unwrap();
    assert_eq!(closing.reason(), Some(CloseReason::Refused));
    assert_eq!((stats.bytes_in(), stats.bytes_out()), ((100 << 10) + 1000, 22));
}

#[tokio::test]
async fn a_refusal_at_once_reaches_a_tcp_peer_accepted_a_moment_ago() {
    let layer = ConnectionLimitLayer::new(0).refuse_with("full");
    let mut service = layer.layer(Hold::default());
    let held: Vec<_> = (0..MAX_REFUSALS).map(|_| service.call(connection().0)).collect();
    let (ours, mut peer) = tcp(0).await.unwrap();
    let (closing, stats) = (ours.closing(), ours.stats());
    service.ready().await.unwrap().call(ours).await.unwrap();
    let mut text = String::new();
    peer.read_to_string(&mut text).await.unwrap();
    assert_eq!((text.as_str(), stats.bytes_out()), ("full", 4));
    assert_eq!(closing.reason(), Some(CloseReason::RefusedAtOnce));
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn at_most_256_refusals_linger_and_more_are_counted_apart() {
    let layer = ConnectionLimitLayer::new(0).refuse_with("full");
    let (mut peers, mut closings) = (Vec::new(), Vec::new());
    for _ in 0..300 {
        // Each through a service of its own: the bound is the layer's.
        let mut service = layer.layer(Hold::default());
        let (ours, theirs) = connection();
        closings.push(ours.closing());
        peers.push((tokio::spawn(service.ready().await.unwrap().call(ours)), theirs));
    }
    settle().await;
    let count = |reason| closings.iter().filter(|c| c.reason() == Some(reason)).count();
    assert_eq!(
        (count(CloseReason::Refused), count(CloseReason::RefusedAtOnce)),
        (MAX_REFUSALS, 300 - MAX_REFUSALS)
    );
    let lingering = peers.iter().filter(|(task, _)| !task.is_finished()).count();
    assert_eq!(lingering, MAX_REFUSALS);
    let begun = Instant::now();
    for (task, mut peer) in peers {
        let mut text = String::new();
        peer.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "full");
        // The peer stays: the linger ends by its deadline.
        task.await.unwrap().unwrap();
    }
    assert!(begun.elapsed() <= Duration::from_secs(3), "{:?}", begun.elapsed());

    let (ours, _theirs) = connection();
    let closing = ours.closing();
    let _again = layer.layer(Hold::default()).call(ours);
    assert_eq!(closing.reason(), Some(CloseReason::Refused));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_reads_is_let_go_of_after_two_seconds() {
    let mut service =
        ConnectionLimitLayer::new(0).refuse_with("more than it holds").layer(Hold::default());
    let (ours, _theirs) = connection_on(0, 4);
    let begun = Instant::now();
    service.ready().await.unwrap().call(ours).await.unwrap();
    assert_eq!(begun.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_and_never_closes_is_let_go_of_after_the_linger() {
    let mut service = ConnectionLimitLayer::new(0).refuse_with("full").layer(Hold::default());
    let (ours, _theirs) = connection();
    let begun = Instant::now();
    service.ready().await.unwrap().call(ours).await.unwrap();
    assert_eq!(begun.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn over_the_cap_the_overflow_service_has_the_connection() {
    let hold = Hold::default();
    let overflow = service_fn(async |mut connection: Connection| {
        connection.write_all(b"try mirror.example\r\n").await?;
        sleep(Duration::from_secs(1)).await;
        connection.close().await;
        Ok::<_, io::Error>(())
    });
    let layer = ConnectionLimitLayer::new(1).refuse_by(overflow);
    let mut service = layer.layer(hold.clone());
    let (ours, _first) = connection();
    tokio::spawn(service.ready().await.unwrap().call(ours));
    let mut refused = Vec::new();
    for _ in 0..3 {
        let (ours, theirs) = connection();
        let closing = ours.closing();
        refused.push((tokio::spawn(service.ready().await.unwrap().call(ours)), theirs, closing));
    }
    for (task, mut peer, closing) in refused {
        let mut text = String::new();
        peer.read_to_string(&mut text).await.unwrap();
        assert_eq!(
            (text.as_str(), closing.reason()),
            ("try mirror.example\r\n", Some(CloseReason::Refused))
        );
        drop(peer);
        task.await.unwrap().unwrap();
    }
    assert_eq!((hold.ever(), layer.active()), (1, 1));
}

#[tokio::test]
async fn an_error_of_the_overflow_service_is_the_answer() {
    let overflow = service_fn(async |_: Connection| Err(io::Error::other("overflow")));
    let mut service = ConnectionLimitLayer::new(0).refuse_by(overflow).layer(Hold::default());
    let error = service.ready().await.unwrap().call(connection().0).await.unwrap_err();
    assert_eq!(error.to_string(), "overflow");
}

#[tokio::test]
async fn the_overflow_service_has_at_most_256_and_its_end_makes_room() {
    let overflow = Hold::default();
    let mut service =
        ConnectionLimitLayer::new(0).refuse_by(overflow.clone()).layer(Hold::default());
    let mut peers = Vec::new();
    for _ in 0..300 {
        let (ours, theirs) = connection();
        peers.push((tokio::spawn(service.ready().await.unwrap().call(ours)), theirs));
    }
    settle().await;
    assert_eq!((overflow.ever(), overflow.most()), (MAX_REFUSALS, MAX_REFUSALS));

    let (mut at_once, mut peer) = peers.pop().unwrap();
    assert_eq!(peer.read(&mut [0]).await.unwrap(), 0, "closed without a word");
    (&mut at_once).await.unwrap().unwrap();

    let (task, peer) = peers.swap_remove(0);
    drop(peer);
    task.await.unwrap().unwrap();
    let (ours, _theirs) = connection();
    let closing = ours.closing();
    let _again = service.ready().await.unwrap().call(ours);
    assert_eq!(closing.reason(), Some(CloseReason::Refused));
}

#[tokio::test(start_paused = true)]
async fn peers_the_overflow_service_waits_for_give_way_to_later_ones_after_ten_seconds() {
    let overflow = Hold::default();
    let layer = ConnectionLimitLayer::new(0).refuse_by(overflow.clone());
    let mut service = layer.layer(Hold::default());
    let begun = Instant::now();
    let mut slow = Vec::new();
    for _ in 0..MAX_REFUSALS {
        let (ours, theirs) = connection();
        let closing = ours.closing();
        slow.push((tokio::spawn(service.ready().await.unwrap().call(ours)), theirs, closing));
    }
    settle().await;
    assert_eq!(overflow.now(), MAX_REFUSALS);
    for (task, mut peer, closing) in slow {
        task.await.unwrap().unwrap();
        assert_eq!(peer.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(closing.reason(), Some(CloseReason::Refused));
    }
    assert!(
        (MAX_REFUSAL_TIME..MAX_REFUSAL_TIME + Duration::from_millis(10)).contains(&begun.elapsed())
    );

    let (ours, _theirs) = connection();
    let _later = tokio::spawn(service.ready().await.unwrap().call(ours));
    settle().await;
    assert_eq!((overflow.now(), overflow.ever()), (1, MAX_REFUSALS + 1));
}

#[tokio::test(start_paused = true)]
async fn a_refused_connection_that_is_dropped_gives_its_refusal_back() {
    let layer = ConnectionLimitLayer::new(0).refuse_with("full");
    let mut service = layer.layer(service_fn(async |_: Connection| Ok::<_, Infallible>(())));
    for _ in 0..3 * MAX_REFUSALS {
        let (ours, _theirs) = connection();
        let closing = ours.closing();
        let call = service.ready().await.unwrap().call(ours);
        assert!(timeout(Duration::ZERO, call).await.is_err());
        assert_eq!(closing.reason(), Some(CloseReason::Refused));
    }
}
