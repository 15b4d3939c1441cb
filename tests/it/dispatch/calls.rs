//! What `framed` and `Session::drive` promise.

use std::iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use ropewalk::codec::CodecError;
use ropewalk::{
    CloseReason, Error, Lines, Netstring, RawBytes, Reply, Session, framed, per_connection,
    reply_fn, service_fn, session,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufStream, duplex};
use tokio::time::timeout;
use tokio_util::codec::{Decoder, Encoder};

use crate::transports::{Foreign, Scripted};
use crate::wired::{over, settle, wired, wired_with};

/// Only turns a hang into a failure.
const LONG: Duration = Duration::from_secs(60);

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn a_burst_is_answered_with_one_read_and_one_write() {
    let mut w = wired(framed(Lines::lf(), reply_fn(|line: Bytes| line)));
    for _ in 0..3 {
        let burst: String = (0..64).map(|i| format!("line {i:058}\n")).collect();
        let (reads, writes) = (w.calls.reads(), w.calls.writes());
        w.say(&burst).await;
        w.expect(&burst).await;
        settle().await;
        assert_eq!((w.calls.reads() - reads, w.calls.writes() - writes), (1, 1));
    }
    assert_eq!((w.stats.frames_in(), w.stats.frames_out()), (192, 192));
    assert_eq!(w.finish().await, "");
    w.end().await.unwrap();
}

#[tokio::test]
async fn zero_one_many_a_stream_and_an_iterator_are_answers() {
    let mut w = wired(framed(
        Lines::lf(),
        reply_fn(|line: Bytes| match &line[..] {
            b"none" => Reply::none(),
            b"many" => Reply::many(["1", "2", "3"]),
            b"stream" => Reply::stream(stream::iter(["a", "b"].map(Ok))),
            b"maybe" => Reply::maybe(None),
            b"iter" => Reply::iter(["x", "y", "z"]),
            b"iter none" => Reply::iter([]),
            b"iter ended" => {
                let mut ended = false;
                Reply::iter(iter::from_fn(move || {
                    std::mem::replace(&mut ended, true).then_some("after its end")
                }))
            }
            b"iter one" => Reply::iter(["w"]),
            b"bye" => Reply::one("bye").then_close(),
            _ => Reply::one("one"),
        }),
    ));
    w.say("none\nmany\nmaybe\none\nstream\niter\niter none\niter ended\niter one\nbye\nmany\n")
        .await;
    // What is behind `then_close` is not served.
    assert_eq!(w.rest().await, "1\n2\n3\none\na\nb\nx\ny\nz\nw\nbye\n");
    w.end().await.unwrap();
}

#[tokio::test]
async fn long_answers_wait_for_room() {
    let polled = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&polled);
    let service = reply_fn(move |_: Bytes| {
        let counter = Arc::clone(&counter);
        Reply::stream(stream::iter(0..100_000).map(move |i| {
            counter.fetch_add(1, Ordering::SeqCst);
            Ok(format!("{i:099}"))
        }))
    });
    let mut w = wired_with(framed(Lines::lf(), service), 1000);
    w.say("go\n").await;
    settle().await;
    let ahead = polled.load(Ordering::SeqCst);
    assert!((1..2000).contains(&ahead), "it is polled only while there is room: {ahead}");
    let mut total = 0;
    let mut buf = vec![0; 64 * 1024];
    while total < 10_000_000 {
        total += w.peer.read(&mut buf).await.unwrap();
    }
    assert_eq!(w.finish().await, "");
    w.end().await.unwrap();
}

#[tokio::test]
async fn an_iterator_is_asked_for_two_frames_and_then_only_while_there_is_room() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let service = reply_fn(move |_: Bytes| {
        let counter = Arc::clone(&counter);
        Reply::iter((0..100_000).map(move |i| {
            counter.fetch_add(1, Ordering::SeqCst);
            format!("{i:0999}")
        }))
    });
    let mut w = wired_with(framed(Lines::lf(), service), 1000);
    w.say("go\n").await;
    settle().await;
    assert!((2..200).contains(&asked.load(Ordering::SeqCst)), "{asked:?}");
    w.expect(&format!("{:0999}\n{:0999}\n{:0999}\n", 0, 1, 2)).await;
}

#[tokio::test]
async fn errors_become_answers_in_their_place() {
    let service = service_fn(async |line: Bytes| match &line[..] {
        b"bad" => Err(Error::other("no such thing")),
        _ => Ok(line),
    });
    let leaf =
        framed(Lines::lf().max(8).skip_too_long(), service).on_error(|e: &Error| match e
            .downcast_ref::<CodecError>()
        {
            Some(_) => Bytes::from_static(b"500 long"),
            None => Bytes::from(e.to_string().into_bytes().split_off(8)),
        });
    let mut w = wired(leaf);
    w.say("a\nbad\nway too long a line\nb\n").await;
    assert_eq!(w.finish().await, "a\nthing\n500 long\nb\n");
    w.end().await.unwrap();
}

#[tokio::test]
async fn after_a_fatal_error_its_answer_is_the_last() {
    let leaf = framed(Netstring::new(), reply_fn(|frame: Bytes| frame))
        .on_error(|_: &Error| Bytes::from_static(b"?!"));
    let mut w = wired(leaf);
    w.say("1:a,oops1:b,").await;
    assert_eq!(w.rest().await, "1:a,2:?!,");
    let closing = w.closing.clone();
    w.end().await.unwrap();
    assert_eq!(closing.reason(), Some(CloseReason::CodecError));
}

#[tokio::test]
async fn without_on_error_a_failed_call_ends_the_connection_behind_earlier_answers() {
    let service = service_fn(async |line: Bytes| match &line[..] {
        b"bad" => Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset).into()),
        _ => Ok(line),
    });
    let mut w = wired(framed(Lines::lf(), service));
    w.say("a\nbad\nb\n").await;
    assert_eq!(w.rest().await, "a\n");
    let closing = w.closing.clone();
    w.end().await.unwrap_err();
    // A backend's reset is not this peer's.
    assert_eq!(closing.reason(), Some(CloseReason::ServiceError));
}

#[tokio::test]
async fn an_answer_that_cannot_be_encoded_ends_the_connection_and_splits_no_response() {
    let mut w = wired(framed(Lines::lf(), reply_fn(|_: Bytes| "two\nlines")));
    w.say("go\n").await;
    assert_eq!(w.rest().await, "");
    assert!(w.end().await.unwrap_err().downcast_ref::<CodecError>().is_some());
}

#[tokio::test]
async fn each_connection_has_a_service_of_its_own_made_for_its_peer() {
    let leaf = per_connection(Lines::lf(), |connection| {
        let (peer, mut n) = (connection.peer().to_string(), 0);
        reply_fn(move |_: Bytes| {
            n += 1;
            format!("{peer} {n}")
        })
    });
    for _ in 0..2 {
        let mut w = wired(leaf.clone());
        w.say("\n\n").await;
        assert_eq!(w.finish().await, "memory: 1\nmemory: 2\n");
        w.end().await.unwrap();
    }
}

#[tokio::test]
async fn a_session_drives_a_service_from_where_it_stands() {
    let mut w = wired(session(Lines::lf(), async |mut s: Session<Lines>| {
        s.feed("who?")?;
        let name = s.next().await?.unwrap_or_default();
        let service = service_fn(move |line: Bytes| {
            let name = text(&name);
            async move { Ok(format!("{name}: {}", text(&line))) }
        });
        s.drive(service).concurrent(4).on_error(|_: &Error| String::from("error")).await
    }));
    w.expect("who?\n").await;
    w.say("ada\none\ntwo\n").await;
    assert_eq!(w.finish().await, "ada: one\nada: two\n");
    w.end().await.unwrap();
}

#[tokio::test]
async fn twenty_megabytes_arrive_whole_at_a_client_that_half_closed() {
    let mut w = wired(framed(RawBytes, reply_fn(|_: Bytes| Bytes::from(vec![7; 20_000_000]))));
    w.say("x").await;
    w.peer.shutdown().await.unwrap();
    let mut all = Vec::new();
    w.peer.read_to_end(&mut all).await.unwrap();
    assert_eq!(all.len(), 20_000_000);
    w.end().await.unwrap();
}

/// Counts how often something else on this thread has its turn.
fn others() -> Arc<AtomicUsize> {
    let turns = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&turns);
    tokio::spawn(std::future::poll_fn(move |cx| {
        counter.fetch_add(1, Ordering::SeqCst);
        cx.waker().wake_by_ref();
        Poll::<()>::Pending
    }));
    turns
}

#[tokio::test]
async fn a_greedy_connection_lets_others_run() {
    let mut w =
        wired_with(framed(Lines::lf(), reply_fn(|_: Bytes| Reply::<Bytes>::none())), 1 << 20);
    let turns = others();
    w.say(vec![b'\n'; 60_000]).await;
    let before = turns.load(Ordering::SeqCst);
    while w.stats.frames_in() < 60_000 {
        tokio::task::yield_now().await;
    }
    assert!(turns.load(Ordering::SeqCst) - before > 100, "60 000 frames are not one turn");
}

#[tokio::test]
async fn a_long_answer_of_which_nothing_is_sent_lets_others_run() {
    let many = || Reply::many(iter::repeat_n("", 60_000));
    let stream = || Reply::stream(stream::iter(iter::repeat_n("", 60_000).map(Ok)));
    let answer = move |line: Bytes| if line == "many" { many() } else { stream() };
    for asked in ["many", "stream"] {
        // Raw, so an empty frame is nothing on the wire.
        let mut w = wired(framed(RawBytes, reply_fn(answer)));
        let turns = others();
        w.say(asked).await;
        let before = turns.load(Ordering::SeqCst);
        while w.stats.frames_out() < 60_000 {
            tokio::task::yield_now().await;
        }
        assert!(turns.load(Ordering::SeqCst) - before > 100, "60 000 frames are not one turn");
    }
}

#[tokio::test(start_paused = true)]
async fn a_transport_that_buffers_is_flushed() {
    let (mut peer, io) = duplex(1024);
    let (_, _, task) =
        over(Foreign(BufStream::new(io)), framed(Lines::lf(), reply_fn(|line: Bytes| line)));
    peer.write_all(b"hi\n").await.unwrap();
    let mut answer = [0; 3];
    timeout(LONG, peer.read_exact(&mut answer)).await.expect("an answer").unwrap();
    assert_eq!(&answer, b"hi\n");
    drop(peer);
    task.await.unwrap().unwrap();
}

/// Each line twice; the second is held back until it is asked for.
#[derive(Clone, Default)]
struct Twice(Option<Bytes>);

impl Decoder for Twice {
    type Item = Bytes;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        if let Some(line) = self.0.take() {
            return Ok(Some(line));
        }
        self.0 = Lines::lf().decode(src)?;
        Ok(self.0.clone())
    }
}

impl Encoder<Bytes> for Twice {
    type Error = CodecError;

    fn encode(&mut self, line: Bytes, dst: &mut BytesMut) -> Result<(), CodecError> {
        Lines::lf().encode(line, dst)
    }
}

#[tokio::test(start_paused = true)]
async fn a_frame_the_codec_holds_back_is_asked_for_before_more_is_read() {
    let mut w = wired(framed(Twice::default(), service_fn(async |line: Bytes| Ok(line))));
    w.say("hi\n").await;
    timeout(LONG, w.expect("hi\nhi\n")).await.expect("both of them");
    assert_eq!(w.finish().await, "");
    w.end().await.unwrap();
}

/// Bytes that are frames once the stream has ended; some are refused.
#[derive(Clone)]
struct AtTheEnd;

impl Decoder for AtTheEnd {
    type Item = Bytes;
    type Error = CodecError;

    fn decode(&mut self, _: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        Ok(None)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        match src.split_to(src.len().min(1)).freeze() {
            byte if byte == "!" => Err(CodecError::parse("an exclamation mark")),
            byte => Ok(Some(byte).filter(|byte| !byte.is_empty())),
        }
    }
}

impl Encoder<Bytes> for AtTheEnd {
    type Error = CodecError;

    fn encode(&mut self, byte: Bytes, dst: &mut BytesMut) -> Result<(), CodecError> {
        dst.extend_from_slice(&byte);
        Ok(())
    }
}

#[tokio::test]
async fn a_recoverable_error_at_the_end_of_the_stream_loses_no_frame_behind_it() {
    let leaf = framed(AtTheEnd, reply_fn(|byte: Bytes| byte))
        .on_error(|_: &Error| Bytes::from_static(b"?"));
    let mut w = wired(leaf);
    w.say("ab!cd").await;
    assert_eq!(w.finish().await, "ab?cd");
    w.end().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_drain_answers_arrived_frames_in_however_many_turns() {
    // The runtime says "nothing to read" when a task has had its turn, of 128 reads and writes.
    for lines in [10, 200] {
        let io = Scripted::new(iter::repeat_n(&b"line\n"[..], lines).map(Ok));
        let written = io.written();
        let (closing, _, task) = over(io, framed(Lines::lf(), reply_fn(|line: Bytes| line)));
        closing.drain();
        task.await.unwrap().unwrap();
        assert_eq!(written.load(Ordering::SeqCst), 5 * lines);
    }
}
