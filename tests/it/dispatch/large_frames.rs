//! Large frames of answers, which are written from where they are: in order, whole, under the same
//! deadlines and limits.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ropewalk::codec::{Decoder, Encoder};
use ropewalk::connection::Io;
use ropewalk::{
    CodecExt, LengthPrefixed, Lines, Netstring, RawBytes, Reply, Session, SessionError,
    SlowConsumer, framed, reply_fn, session,
};
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex,
};
use tokio::time::{Instant, advance, timeout};

use crate::wired::{over, settle};

const KIB: usize = 1024;
const SECOND: Duration = Duration::from_secs(1);

/// A frame that is not copied, in memory of its own.
static BIG: LazyLock<Bytes> = LazyLock::new(|| (b'a'..b'x').cycle().take(100 * KIB).collect());

/// Whether these bytes lie in the memory of [`BIG`].
fn is_big(bytes: &[u8]) -> bool {
    BIG.as_ptr_range().contains(&bytes.as_ptr())
}

/// How a transport takes what it is given.
#[derive(Clone, Copy)]
struct Takes {
    /// The most bytes of one write.
    at_most: usize,
    vectored: bool,
}

const ALL: Takes = Takes { at_most: usize::MAX, vectored: true };

/// One end of a pipe, which notes the bytes that it took from the memory of [`BIG`].
struct Noting {
    io: DuplexStream,
    takes: Takes,
    in_place: Arc<AtomicUsize>,
}

impl Io for Noting {}

impl AsyncRead for Noting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Noting {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let bytes = &bytes[..bytes.len().min(self.takes.at_most)];
        let polled = Pin::new(&mut self.io).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = polled
            && is_big(bytes)
        {
            self.in_place.fetch_add(written, Ordering::SeqCst);
        }
        polled
    }

    /// Takes one part after the other, and may end in the middle of any.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let most = self.takes.at_most;
        let mut taken = 0;
        for part in parts {
            let part = &part[..part.len().min(most - taken)];
            if part.is_empty() {
                break;
            }
            match self.as_mut().poll_write(cx, part) {
                Poll::Ready(Ok(written)) => taken += written,
                _ if taken > 0 => break,
                other => return other,
            }
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        self.takes.vectored
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A pipe with so much room; its two ends, and the count of bytes that were written in place.
fn noting(capacity: usize, takes: Takes) -> (DuplexStream, Noting, Arc<AtomicUsize>) {
    let (peer, io) = duplex(capacity);
    let in_place = Arc::<AtomicUsize>::default();
    (peer, Noting { io, takes, in_place: Arc::clone(&in_place) }, in_place)
}

/// The answers of a service that knows these words; any other is echoed.
fn answer(line: &[u8]) -> Reply<Bytes> {
    match line {
        b"big" => Reply::one(BIG.clone()),
        b"part" => Reply::one(BIG.slice(10..KIB * 40)),
        b"least" => Reply::one(BIG.slice(..16 * KIB)),
        b"less" => Reply::one(BIG.slice(..16 * KIB - 1)),
        b"both" => Reply::many([BIG.clone(), Bytes::from_static(b"and"), BIG.slice(1..)]),
        b"last" => Reply::one(BIG.clone()).then_close(),
        line => Reply::one(Bytes::copy_from_slice(line)),
    }
}

/// What a codec makes of the answers to these words.
fn encoded(mut codec: impl Encoder<Bytes, Error: std::fmt::Debug>, words: &[&str]) -> Vec<u8> {
    let mut out = BytesMut::new();
    for word in words {
        let frames = match *word {
            "big" | "last" => vec![BIG.clone()],
            "least" => vec![BIG.slice(..16 * KIB)],
            "less" => vec![BIG.slice(..16 * KIB - 1)],
            "part" => vec![BIG.slice(10..KIB * 40)],
            "both" => vec![BIG.clone(), Bytes::from_static(b"and"), BIG.slice(1..)],
            word => vec![Bytes::copy_from_slice(word.as_bytes())],
        };
        frames.into_iter().for_each(|frame| codec.encode(frame, &mut out).unwrap());
    }
    out.to_vec()
}

/// Sends these words to a service under `framed` and compares what comes back, byte by byte.
/// Returns how many bytes of large frames were written in place.
async fn converse<C>(codec: C, words: &[&str], takes: Takes) -> usize
where
    C: Decoder<Item = Bytes, Error: Into<ropewalk::layer::BoxError>>
        + Encoder<Bytes, Error: Into<ropewalk::layer::BoxError> + std::fmt::Debug>
        + Clone
        + Send
        + 'static,
{
    let (mut peer, io, in_place) = noting(32 * KIB, takes);
    let (_, _, task) = over(io, framed(codec.clone(), reply_fn(|line: Bytes| answer(&line))));
    let mut requests = BytesMut::new();
    let mut encoder = codec.clone();
    for word in words {
        encoder.encode(Bytes::copy_from_slice(word.as_bytes()), &mut requests).unwrap();
    }
    peer.write_all(&requests).await.unwrap();
    let expected = encoded(codec, words);
    let mut got = vec![0; expected.len()];
    timeout(60 * SECOND, peer.read_exact(&mut got)).await.unwrap().unwrap();
    assert!(got == expected, "the answers to {words:?} differ");
    drop(peer);
    drop(task.await);
    in_place.load(Ordering::SeqCst)
}

#[tokio::test(start_paused = true)]
async fn a_large_answer_is_written_from_where_it_is_by_each_codec_of_ours() {
    assert_eq!(converse(RawBytes, &["big"], ALL).await, BIG.len());
    let words = ["small", "big", "small"];
    assert_eq!(converse(Lines::lf().max(KIB * KIB), &words, ALL).await, BIG.len());
    assert_eq!(converse(Lines::crlf().max(KIB * KIB), &words, ALL).await, BIG.len());
    assert_eq!(converse(Lines::delimited("<end>").max(KIB * KIB), &words, ALL).await, BIG.len());
    assert_eq!(converse(Netstring::new().max(KIB * KIB), &words, ALL).await, BIG.len());
    assert_eq!(converse(LengthPrefixed::u32().max(KIB * KIB), &words, ALL).await, BIG.len());
    assert_eq!(converse(LengthPrefixed::varint().max(KIB * KIB), &words, ALL).await, BIG.len());
    // The header stands before the length, so it is copied there.
    let header = LengthPrefixed::u32().max(KIB * KIB).header(3);
    assert_eq!(converse(header, &words, ALL).await, BIG.len() - 3);
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_16_kib_is_large_and_one_of_a_byte_less_is_copied() {
    assert_eq!(converse(Lines::lf().max(KIB * KIB), &["least"], ALL).await, 16 * KIB);
    assert_eq!(converse(Lines::lf().max(KIB * KIB), &["less"], ALL).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_large_answer_of_another_codec_is_copied() {
    let lines = Lines::lf().max(KIB * KIB).map(|line: Bytes| line);
    assert_eq!(converse(lines, &["small", "big", "small"], ALL).await, 0);
}

#[tokio::test(start_paused = true)]
async fn answers_keep_their_order_and_bytes_however_the_transport_cuts_them() {
    let codec = LengthPrefixed::u32().max(KIB * KIB);
    let words = ["a", "big", "b", "c", "both", "part", "part", "d", "big", "e"];
    for vectored in [true, false] {
        // A byte at a time takes long for all of them.
        for at_most in [1, 3] {
            converse(codec.clone(), &["a", "part", "b", "part"], Takes { at_most, vectored }).await;
        }
        for at_most in [1000, 16 * KIB, 99_999, usize::MAX] {
            converse(codec.clone(), &words, Takes { at_most, vectored }).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn more_large_frames_than_one_write_has_parts_arrive_in_order() {
    let codec = LengthPrefixed::u32().max(KIB * KIB);
    let frames: Vec<_> = (0..100).map(|n| BIG.slice(n..n + 16 * KIB + n)).collect();
    let pushed = frames.clone();
    let leaf = session(codec.clone(), move |mut s: Session<LengthPrefixed>| {
        let pushed = pushed.clone();
        async move {
            let many = ropewalk::service_fn(move |_: Bytes| {
                let reply = Reply::many(pushed.clone());
                async move { Ok(reply) }
            });
            s.feed("hello")?;
            s.drive(many).await
        }
    });
    let (mut peer, io, in_place) = noting(8 * KIB * KIB, ALL);
    let (_, _, task) = over(io, leaf);
    peer.write_all(b"\0\0\0\0").await.unwrap();
    let mut expected = BytesMut::new();
    let mut encoder = codec;
    encoder.encode("hello", &mut expected).unwrap();
    frames.iter().for_each(|frame| encoder.encode(frame, &mut expected).unwrap());
    let mut got = vec![0; expected.len()];
    peer.read_exact(&mut got).await.unwrap();
    assert!(got == expected);
    assert_eq!(in_place.load(Ordering::SeqCst), frames.iter().map(Bytes::len).sum::<usize>());
    drop(peer);
    task.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_large_line_that_contains_the_delimiter_is_refused_and_no_part_of_it_is_sent() {
    let smuggled = Bytes::from([&BIG[..50_000], b"\n", &BIG[..]].concat());
    let leaf = framed(Lines::lf().max(KIB * KIB), reply_fn(move |_: Bytes| smuggled.clone()))
        .on_error(|error: &ropewalk::Error| Bytes::from(format!("refused: {error}")));
    let (mut peer, io, _) = noting(KIB * KIB, ALL);
    let (_, _, task) = over(io, leaf);
    peer.write_all(b"x\n").await.unwrap();
    peer.shutdown().await.unwrap();
    let mut got = String::new();
    peer.read_to_string(&mut got).await.unwrap();
    assert!(got.starts_with("refused: ") && got.lines().count() == 1, "{got}");
    task.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_large_last_answer_arrives_whole_before_the_connection_closes() {
    let (mut peer, io, _) = noting(KIB, Takes { at_most: 700, vectored: true });
    let (_, _, task) =
        over(io, framed(Lines::lf().max(KIB * KIB), reply_fn(|line: Bytes| answer(&line))));
    peer.write_all(b"a\nlast\nnever\n").await.unwrap();
    let mut got = Vec::new();
    peer.read_to_end(&mut got).await.unwrap();
    assert!(got == encoded(Lines::lf().max(KIB * KIB), &["a", "last"]));
    drop(peer);
    task.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_large_answer_that_waits_is_written_in_a_drain() {
    let (mut peer, io, _) = noting(KIB, ALL);
    let (closing, _, task) =
        over(io, framed(Lines::lf().max(KIB * KIB), reply_fn(|line: Bytes| answer(&line))));
    peer.write_all(b"a\nbig\nb\n").await.unwrap();
    settle().await;
    closing.drain();
    let mut got = Vec::new();
    peer.read_to_end(&mut got).await.unwrap();
    assert!(got == encoded(Lines::lf().max(KIB * KIB), &["a", "big", "b"]));
    drop(peer);
    task.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_nothing_of_a_large_answer_stalls() {
    let (mut peer, io, _) = noting(KIB, ALL);
    let (_, _, task) =
        over(io, framed(Lines::lf().max(KIB * KIB), reply_fn(|line: Bytes| answer(&line))));
    let start = Instant::now();
    peer.write_all(b"big\n").await.unwrap();
    settle().await;
    // What it takes in the middle counts, and no more.
    advance(20 * SECOND).await;
    peer.read_exact(&mut [0; KIB]).await.unwrap();
    let error = task.await.unwrap().unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(SessionError::WriteStalled)), "{error}");
    assert_eq!(start.elapsed().as_secs(), 50);
}

#[tokio::test(start_paused = true)]
async fn while_a_large_answer_waits_no_more_frames_are_served() {
    let served = Arc::<Mutex<Vec<Bytes>>>::default();
    let note = Arc::clone(&served);
    let (mut peer, io, _) = noting(KIB, ALL);
    let service = reply_fn(move |line: Bytes| {
        note.lock().unwrap().push(line.clone());
        answer(&line)
    });
    let (_, _, task) = over(io, framed(Lines::lf().max(KIB * KIB), service));
    peer.write_all(b"a\nbig\nb\n").await.unwrap();
    settle().await;
    assert_eq!(*served.lock().unwrap(), ["a", "big"]);
    // It is below the mark (64 KiB) before it is written.
    let mut got = vec![0; 60 * KIB];
    peer.read_exact(&mut got).await.unwrap();
    settle().await;
    assert_eq!(*served.lock().unwrap(), ["a", "big", "b"]);
    drop(peer);
    drop(task.await);
}

#[tokio::test(start_paused = true)]
async fn raw_bytes_of_a_session_are_copied_only_where_the_peer_does_not_take_them_at_once() {
    for (capacity, at_most) in
        [(KIB * KIB, usize::MAX), (30 * KIB, usize::MAX), (30 * KIB, 1), (30 * KIB, 12)]
    {
        let leaf = session(Lines::lf(), async |mut s: Session<Lines>| {
            s.feed("hello")?;
            s.feed_raw(&*BIG)?;
            s.feed("between")?;
            s.feed_raw(&BIG[1..])?;
            s.feed_raw("small")?;
            s.close().await
        });
        let (mut peer, io, in_place) = noting(capacity, Takes { at_most, vectored: true });
        let (_, _, task) = over(io, leaf);
        let mut got = Vec::new();
        peer.read_to_end(&mut got).await.unwrap();
        assert!(
            got == [b"hello\n", &BIG[..], b"between\n", &BIG[1..], b"small"].concat(),
            "{capacity}, {at_most}"
        );
        if capacity > 2 * BIG.len() {
            assert_eq!(in_place.load(Ordering::SeqCst), 2 * BIG.len() - 1);
        }
        drop(peer);
        task.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn large_raw_bytes_that_are_pushed_are_written_from_where_they_are() {
    let leaf = session(Lines::lf(), async |mut s: Session<Lines>| {
        let outbox = s.outbox_raw(8, SlowConsumer::Disconnect);
        outbox.push(Bytes::from_static(b"before\n")).unwrap();
        outbox.push(BIG.clone()).unwrap();
        outbox.push(Bytes::from_static(b"\nafter\n")).unwrap();
        while s.next().await?.is_some() {}
        Ok(())
    });
    let (mut peer, io, in_place) = noting(10 * KIB, ALL);
    let (_, _, task) = over(io, leaf);
    let expected = [b"before\n", &BIG[..], b"\nafter\n"].concat();
    let mut got = vec![0; expected.len()];
    peer.read_exact(&mut got).await.unwrap();
    assert!(got == expected);
    assert_eq!(in_place.load(Ordering::SeqCst), BIG.len());
    drop(peer);
    task.await.unwrap().unwrap();
}
