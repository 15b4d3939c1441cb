//! Several services in one server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ropewalk::{
    Addr, ConnectionLimitLayer, Lines, Result, Server, Session, StateLayer, framed, memory,
    reply_fn, session_with,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower::{Layer, service_fn};

use crate::harness::{Running, settle, shouter, until};

/// A service that answers each line with its name.
fn named(name: &'static str) -> impl Fn(Bytes) -> Bytes + Clone + Send + Sync + 'static {
    move |line| Bytes::from(format!("{name} {}", String::from_utf8_lossy(&line)))
}

async fn ask<S: AsyncReadExt + AsyncWriteExt + Unpin>(stream: &mut S, line: &str) -> String {
    stream.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).await.unwrap();
    answer.trim_end().to_owned()
}

#[tokio::test(start_paused = true)]
async fn each_endpoint_is_served_by_its_own_service() {
    let [(a, to_a), (b, to_b), (c, to_c)] = [(); 3].map(|()| memory::endpoint());
    let server = Server::new()
        .serve_on("b", [b], framed(Lines::lf(), reply_fn(named("b"))))
        .listen(a)
        .serve_on("c", [c], framed(Lines::any(), reply_fn(named("c"))))
        .serve(framed(Lines::lf(), reply_fn(named("a"))));
    let handle = server.handle();
    let server = tokio::spawn(server);
    for (connector, name) in [(&to_a, "a"), (&to_b, "b"), (&to_c, "c")] {
        let mut stream = connector.connect().await.unwrap();
        assert_eq!(ask(&mut stream, "hi").await, format!("{name} hi"));
    }
    assert_eq!(handle.counts().accepted(), 3);
    handle.drain(Duration::from_secs(5));
    server.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_server_may_have_only_such_services_and_one_drain_ends_all() {
    let (endpoint, connector) = memory::endpoint();
    let (other, to_other) = memory::endpoint();
    let server = Server::new()
        .serve_on(
            "one",
            [endpoint],
            framed(Lines::lf(), reply_fn(named("one"))).on_drain(|| Bytes::from_static(b"bye")),
        )
        .serve_on(
            "two",
            [other],
            framed(Lines::lf(), reply_fn(named("two"))).on_drain(|| Bytes::from_static(b"bye")),
        )
        .run();
    let handle = server.handle();
    let server = tokio::spawn(server);
    let mut streams = [connector.connect().await.unwrap(), to_other.connect().await.unwrap()];
    assert_eq!(ask(&mut streams[0], "x").await, "one x");
    assert_eq!(ask(&mut streams[1], "x").await, "two x");
    handle.drain(Duration::from_secs(5));
    for stream in &mut streams {
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "bye\n");
    }
    server.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn endpoints_without_a_service_are_an_error_that_names_the_fix() {
    let [(a, _), (b, _)] = [(); 2].map(|()| memory::endpoint());
    let server =
        Server::new().listen(a).serve_on("b", [b], framed(Lines::lf(), reply_fn(named("b")))).run();
    let error = server.await.unwrap_err().to_string();
    assert!(error.contains("end with `serve`"), "{error}");
}

/// The layers before a service are around it, those after it are not.
#[tokio::test(start_paused = true)]
async fn a_service_has_the_layers_that_were_added_before_it() {
    let [(a, to_a), (b, to_b)] = [(); 2].map(|()| memory::endpoint());
    async fn tell(mut s: Session<Lines>, text: Arc<str>) -> Result {
        s.feed(&*text)
    }
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&seen);
    let server = Server::new()
        .serve_on("b", [b], service_fn(async |_| Ok::<_, ropewalk::Error>(())))
        .layer_with(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            tower::layer::util::Identity::new()
        })
        .layer(StateLayer::new(Arc::<str>::from("state")))
        .listen(a)
        .serve(session_with(Lines::lf(), tell));
    let handle = server.handle();
    let server = tokio::spawn(server);
    for (connector, text, layers) in [(&to_b, "", 0), (&to_a, "state\n", 1)] {
        let mut all = String::new();
        connector.connect().await.unwrap().read_to_string(&mut all).await.unwrap();
        assert_eq!((all.as_str(), seen.load(Ordering::SeqCst)), (text, layers));
    }
    handle.stop();
    server.await.unwrap().unwrap();
}

/// Made ready ahead of a connection, each service without connections would keep a place.
#[tokio::test(start_paused = true)]
async fn one_service_gets_all_places_of_a_limit_that_several_share() {
    for services in [1, 2, 3] {
        let endpoints: Vec<_> = (0..services).map(|_| memory::endpoint()).collect();
        let connectors: Vec<_> = endpoints.iter().map(|(_, connector)| connector.clone()).collect();
        let limit = ConnectionLimitLayer::new(3);
        let mut server = Server::new().layer(limit.clone());
        for (endpoint, _) in endpoints {
            server = server.serve_on("s", [endpoint], framed(Lines::lf(), reply_fn(named("s"))));
        }
        let server = server.run();
        let handle = server.handle();
        let server = tokio::spawn(server);
        for connector in &connectors {
            let mut open = Vec::new();
            for _ in 0..3 {
                let mut stream = connector.connect().await.unwrap();
                let answer = timeout(Duration::from_secs(1), ask(&mut stream, "hi")).await;
                assert_eq!(
                    answer.as_deref(),
                    Ok("s hi"),
                    "{} of 3 with {services} services",
                    open.len() + 1
                );
                open.push(stream);
            }
            let mut fourth = connector.connect().await.unwrap();
            assert!(
                timeout(Duration::from_secs(1), ask(&mut fourth, "hi")).await.is_err(),
                "the limit is exceeded"
            );
            open.clear();
            let mut rest = String::new();
            fourth.shutdown().await.unwrap();
            fourth.read_to_string(&mut rest).await.unwrap();
            assert_eq!(rest, "s hi\n");
            handle_idle(&handle).await;
        }
        handle.stop();
        server.await.unwrap().unwrap();
    }
}

async fn handle_idle(handle: &ropewalk::Handle) {
    for _ in 0..10_000 {
        if handle.counts().active() == 0 {
            return;
        }
        tokio::task::yield_now().await;
    }
    unreachable!("connections stay open");
}

/// Each service has a gate of its own: one that isn't ready stops no other.
#[tokio::test(start_paused = true)]
async fn a_service_that_is_not_ready_stops_no_other_one() {
    let [(a, to_a), (b, to_b)] = [(); 2].map(|()| memory::endpoint());
    let limit = ConnectionLimitLayer::new(1);
    let full = Layer::layer(&limit, framed(Lines::lf(), reply_fn(named("full"))));
    let server = Server::new()
        .serve_on("full", [a], full)
        .serve_on("free", [b], framed(Lines::lf(), reply_fn(named("free"))))
        .run();
    let handle = server.handle();
    let server = tokio::spawn(server);
    let mut first = to_a.connect().await.unwrap();
    assert_eq!(ask(&mut first, "hi").await, "full hi");
    let mut waits = to_a.connect().await.unwrap();
    assert!(timeout(Duration::from_secs(1), ask(&mut waits, "hi")).await.is_err());
    for _ in 0..5 {
        assert_eq!(ask(&mut to_b.connect().await.unwrap(), "hi").await, "free hi");
    }
    handle.stop();
    server.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_the_server_counts_all_services_and_room_wakes_all() {
    let [(a, to_a), (b, to_b)] = [(); 2].map(|()| memory::endpoint());
    let server = Server::new()
        .max_connections(2)
        .make_room(None)
        .serve_on("a", [a], framed(Lines::lf(), reply_fn(named("a"))))
        .serve_on("b", [b], framed(Lines::lf(), reply_fn(named("b"))))
        .run();
    let handle = server.handle();
    let server = tokio::spawn(server);
    for (one, other) in [(&to_a, &to_b), (&to_b, &to_a)] {
        let mut first = one.connect().await.unwrap();
        let mut second = one.connect().await.unwrap();
        ask(&mut first, "hi").await;
        ask(&mut second, "hi").await;
        let mut third = other.connect().await.unwrap();
        assert!(timeout(Duration::from_secs(1), ask(&mut third, "hi")).await.is_err());
        assert_eq!(handle.counts().active(), 2);
        drop(first);
        let mut answer = String::new();
        let woken =
            timeout(Duration::from_secs(1), BufReader::new(&mut third).read_line(&mut answer))
                .await;
        woken.expect("a place that is free wakes all services").unwrap();
        assert!(answer.ends_with(" hi\n"));
        drop((second, third));
        handle_idle(&handle).await;
    }
    handle.stop();
    server.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_serve_all_services_and_keep_the_limit_exact() {
    let server = Server::new()
        .workers(3)
        .max_connections(8)
        .make_room(None)
        .serve_on("a", ["tcp:127.0.0.1:0"], framed(Lines::lf(), reply_fn(named("a"))))
        .serve_on("b", ["tcp:127.0.0.1:0"], framed(Lines::lf(), reply_fn(named("b"))))
        .run()
        .bind()
        .await
        .unwrap();
    let handle = server.handle();
    let server = tokio::spawn(server);
    let Addr::Tcp(a) = handle.addresses()[0].clone() else { unreachable!("it is TCP") };
    let Addr::Tcp(b) = handle.addresses()[1].clone() else { unreachable!("it is TCP") };
    let mut asking = tokio::task::JoinSet::new();
    for n in 0..200 {
        let (address, name) = if n % 2 == 0 { (a, "a") } else { (b, "b") };
        let handle = handle.clone();
        asking.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            assert_eq!(ask(&mut stream, "hi").await, format!("{name} hi"));
            assert!(handle.counts().active() <= 8, "{:?}", handle.counts());
        });
    }
    while let Some(asked) = asking.join_next().await {
        asked.unwrap();
    }
    handle.drain(Duration::from_secs(5));
    server.await.unwrap().unwrap();
    assert_eq!(handle.counts().accepted(), 200);
}

/// Clients whose preambles are done wait for a service at its limit; the other service has slots
/// for its own.
#[tokio::test]
async fn finished_preambles_of_a_full_service_do_not_keep_those_of_another_out() {
    let endpoint = "proxy+tcp:127.0.0.1:0?trust=127.0.0.1";
    let full = ConnectionLimitLayer::new(1).layer(shouter());
    let server = Server::new().max_preambles(4).serve_on("full", [endpoint], full).listen(endpoint);
    let server = server.serve(shouter()).bind().await.unwrap();
    let Addr::Tcp(full) = server.handle().addresses()[0] else { panic!("a TCP address") };
    let header = "PROXY TCP4 192.0.2.1 192.0.2.9 1024 25\r\n";
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let mut client = TcpStream::connect(full).await.unwrap();
        client.write_all(header.as_bytes()).await.unwrap();
        waiting.push(client);
    }
    let server = Running::start(server).await;
    let preambles = || server.handle().preambles();
    // One is served and one waits to be; of the slots that they left one may be free.
    until("others have passed behind them", || {
        preambles().passed() == 2 && preambles().pending() >= 3
    })
    .await;
    settle().await;
    let behind = preambles().pending();
    let mut served = Vec::new();
    for _ in 0..4 {
        let mut client = TcpStream::connect(server.tcp_addr(1)).await.unwrap();
        client.write_all(&header.as_bytes()[..9]).await.unwrap();
        served.push(client);
    }
    until("four headers have begun", || preambles().pending() == behind + 4).await;
    settle().await;
    for client in &mut served {
        client.write_all(&header.as_bytes()[9..]).await.unwrap();
        let answer = timeout(Duration::from_secs(30), ask(client, "a")).await;
        assert_eq!(answer.expect("it has a slot"), "A");
    }
    assert_eq!(preambles().dropped(), 0);
    drop(waiting);
    server.handle().stop();
    server.over().await;
}
