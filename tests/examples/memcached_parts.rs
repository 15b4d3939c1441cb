//! The parts of the memcached example by themselves: the laws of its codec, and time.
#![allow(dead_code)] // not all of the example is used here

use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use ropewalk::laws::Laws;
use ropewalk::{Server, framed, memory, reply_fn};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

#[rustfmt::skip]
#[path = "../../examples/memcached/cache.rs"]
mod cache;
#[rustfmt::skip]
#[path = "../../examples/memcached/codec.rs"]
mod codec;
#[rustfmt::skip]
#[path = "../../examples/memcached/service.rs"]
mod service;

use self::cache::Cache;
use self::codec::{MAX_LINE, MAX_VALUE, Memcache};
use self::service::{answer, refuse};

const STREAMS: [&str; 14] = [
    "get a\r\ngets a b  c \r\ngat 5 a\r\ngats -1 a b\r\nget\r\n get \r\n",
    "set a 1 2 3\r\nabc\r\nadd b 0 0 0 noreply\r\n\r\nget a\r\n",
    "replace a 0 0 5\r\n\r\n\r\n\r\r\nappend a 0 0 1\r\n\n\r\nprepend a 0 0 1\n1\r\n",
    "cas a 0 0 1 7\r\nx\r\ncas a 0 0 1 7 noreply\r\nx\r\ncas a 0 0 1\r\nx\r\n",
    "set a 0 0 3\r\nabcdef\r\nget a\r\nset a 0 0 3 noreply\r\nabcdef\r\n",
    "set a 0 0 21\r\nset b 0 0 1\r\nx\r\nget b\r\nset a 0 0 4\r\nwhole",
    "set a x 0 4\r\nget \r\nset a 0 0 99999999999999999999\r\nget a\r\n",
    "set a 0 0 2147483645\r\nget a\r\n",
    "set a 0 0 2147483648\r\nget a\r\nms a 4\r\nget \r\nms a x\r\n",
    "get a\r\n\u{16}\u{3}\u{1}\u{2}\r\nget a\r\n",
    "incr a 1\r\ndecr a 18446744073709551615 noreply\r\nincr a -1\r\ntouch a 9\r\ndelete a noreply\r\ndelete a b\r\n",
    "flush_all\r\nflush_all 10 noreply\r\nflush_all noreply\r\nflush_all x\r\nverbosity 1\r\nverbosity noreply\r\n",
    "stats\r\nversion\r\nquit\r\nquit now\r\nGET a\r\n\r\n\n",
    "a line that is longer than a line may be, which is told once\r\nget a\r\nset a 0 0 2\r\nx",
];

#[test]
fn the_codec_keeps_the_laws() {
    // The window is a command line, because it announces the bytes behind it.
    Laws::new(|| Memcache::new(40, 20)).streams(STREAMS).limit(42).window(40).variants(200).check();
}

#[test]
fn the_codec_keeps_the_laws_where_a_command_is_too_long() {
    let [key, keys] = ["k".repeat(2045), "k ".repeat(1100)];
    let streams = [
        format!("set {key} 0 0 1\r\nx\r\n"),
        format!("get {keys}\r\nget a\r\n"),
        format!("get {keys}{keys}"),
    ];
    Laws::new(|| Memcache::new(4000, 20))
        .streams(streams)
        .limit(4002)
        .window(4000)
        .variants(10)
        .check();
}

/// A server and a client, both in this process.
async fn client() -> memory::MemoryStream {
    let (endpoint, connector) = memory::endpoint();
    let cache = Arc::new(Mutex::new(Cache::new(1024 * 1024)));
    let answer = reply_fn(move |request| answer(&cache, request));
    let serve = framed(Memcache::new(MAX_LINE, MAX_VALUE), answer).on_error(refuse);
    tokio::spawn(Server::new().listen(endpoint).serve(serve).into_future());
    connector.connect().await.unwrap()
}

async fn ask(client: &mut memory::MemoryStream, request: &str, expected: &str) {
    client.write_all(format!("{request}\r\n").as_bytes()).await.unwrap();
    let mut got = vec![0; expected.len() + 2];
    client.read_exact(&mut got).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&got), format!("{expected}\r\n"), "to {request:?}");
}

#[tokio::test(start_paused = true)]
async fn an_item_is_there_until_its_time_and_not_at_it() {
    let mut c = client().await;
    ask(&mut c, "set a 0 10 1\r\nx", "STORED").await;
    ask(&mut c, "set dead 0 -1 1\r\nx", "STORED").await;
    ask(&mut c, "get dead", "END").await;
    sleep(Duration::from_secs(9)).await;
    ask(&mut c, "get a", "VALUE a 0 1\r\nx\r\nEND").await;
    sleep(Duration::from_secs(1)).await;
    ask(&mut c, "get a", "END").await;
    ask(&mut c, "replace a 0 0 1\r\ny", "NOT_STORED").await;
    ask(&mut c, "add a 0 0 1\r\ny", "STORED").await;
}

#[tokio::test(start_paused = true)]
async fn touch_and_gat_move_the_expiry_and_commands_that_change_the_value_do_not() {
    let mut c = client().await;
    for key in ["touched", "got", "appended", "counted"] {
        ask(&mut c, &format!("set {key} 0 10 1\r\n1"), "STORED").await;
    }
    ask(&mut c, "touch touched 100\r\ngat 100 got", "TOUCHED\r\nVALUE got 0 1\r\n1\r\nEND").await;
    ask(&mut c, "append appended 5 100 1\r\nx\r\nincr counted 1", "STORED\r\n2").await;
    sleep(Duration::from_secs(10)).await;
    ask(
        &mut c,
        "get touched got appended counted",
        "VALUE touched 0 1\r\n1\r\nVALUE got 0 1\r\n1\r\nEND",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn more_than_thirty_days_is_a_unix_time() {
    let mut c = client().await;
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    ask(&mut c, &format!("set a 0 {} 1\r\nx", unix + 100), "STORED").await;
    ask(&mut c, "set month 0 2592000 1\r\nx", "STORED").await;
    ask(&mut c, "set past 0 2592001 1\r\nx", "STORED").await;
    ask(&mut c, &format!("set never 0 {} 1\r\nx", i64::MAX), "STORED").await;
    ask(&mut c, "get a month past", "VALUE a 0 1\r\nx\r\nVALUE month 0 1\r\nx\r\nEND").await;
    sleep(Duration::from_secs(90)).await;
    ask(&mut c, "get a", "VALUE a 0 1\r\nx\r\nEND").await;
    sleep(Duration::from_secs(11)).await;
    ask(&mut c, "get a", "END").await;
    sleep(Duration::from_secs(2_592_000 - 102)).await;
    ask(&mut c, "get month", "VALUE month 0 1\r\nx\r\nEND").await;
    sleep(Duration::from_secs(1)).await;
    ask(&mut c, "get month never", "VALUE never 0 1\r\nx\r\nEND").await;
}

#[tokio::test(start_paused = true)]
async fn a_delayed_flush_removes_values_stored_before_it_is_due_and_no_later_ones() {
    let mut c = client().await;
    ask(&mut c, "set a 0 0 1\r\nx\r\nflush_all 10", "STORED\r\nOK").await;
    sleep(Duration::from_secs(9)).await;
    ask(
        &mut c,
        "set b 0 0 1\r\nx\r\nget a b",
        "STORED\r\nVALUE a 0 1\r\nx\r\nVALUE b 0 1\r\nx\r\nEND",
    )
    .await;
    sleep(Duration::from_secs(1)).await;
    ask(
        &mut c,
        "set c 0 0 1\r\nx\r\ntouch a 0\r\nget a b c",
        "STORED\r\nNOT_FOUND\r\nVALUE c 0 1\r\nx\r\nEND",
    )
    .await;
    ask(
        &mut c,
        "flush_all\r\nset d 0 0 1\r\nx\r\nget c d",
        "OK\r\nSTORED\r\nVALUE d 0 1\r\nx\r\nEND",
    )
    .await;
}

#[tokio::test]
async fn a_get_of_more_than_a_hundred_thousand_keys_that_are_not_there_lets_others_run() {
    let mut c = client().await;
    let turns = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&turns);
    tokio::spawn(poll_fn(move |cx| {
        counter.fetch_add(1, Ordering::Relaxed);
        cx.waker().wake_by_ref();
        Poll::<()>::Pending
    }));
    let keys = " k".repeat(130_000);
    ask(&mut c, &format!("get{keys}"), "END").await;
    let turns = turns.load(Ordering::Relaxed);
    assert!(turns > 400, "{turns} turns");
}
