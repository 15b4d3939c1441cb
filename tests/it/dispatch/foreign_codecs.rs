//! Decoders that are not ours: what they may leave in the buffer, and what becomes of one that does
//! not get on.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ropewalk::codec::custom::{FindFrame, Span, Strict};
use ropewalk::codec::{CodecError, Decoder, Encoder, Fixed};
use ropewalk::layer::BoxError;
use ropewalk::{
    Bytes, BytesMut, CloseReason, CodecExt, Error, LengthPrefixed, Lines, Netstring, Reply, Result,
    Session, framed, reply_fn, session,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::codec::LinesCodec;

use crate::wired::{Wired, settle, wired};

/// A decoder from a function.
#[derive(Clone)]
struct By<F>(F);

impl<F, E: From<io::Error>> Decoder for By<F>
where
    F: FnMut(&mut BytesMut) -> Result<Option<Bytes>, E>,
{
    type Item = Bytes;
    type Error = E;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, E> {
        (self.0)(src)
    }
}

impl<F> Encoder<Bytes> for By<F> {
    type Error = io::Error;

    fn encode(&mut self, frame: Bytes, dst: &mut BytesMut) -> io::Result<()> {
        dst.extend_from_slice(&frame);
        Ok(())
    }
}

/// Counts frames, and ends the connection by itself when there are far too many.
fn counting(frames: &Arc<AtomicUsize>) -> impl Fn() -> Result + Clone + Send + Sync + 'static {
    let frames = Arc::clone(frames);
    move || match frames.fetch_add(1, Ordering::SeqCst) {
        0..100_000 => Ok(()),
        _ => Err(Error::other("nothing has stopped it")),
    }
}

/// A leaf that takes frames and does not answer.
macro_rules! swallow {
    ($codec:expr, $frames:expr) => {{
        let count = counting($frames);
        framed(
            $codec,
            ropewalk::service_fn(move |_: Bytes| {
                let counted = count();
                async move { counted.map(|()| Reply::<Bytes>::none()) }
            }),
        )
    }};
}

/// How the leaf ends, which it does by itself.
async fn ended(wired: Wired) -> (&'static str, String) {
    let error = wired.task.await.unwrap().unwrap_err();
    (wired.closing.reason().unwrap().as_str(), error.to_string())
}

/// Sends up to 64 MiB; returns how much of it was taken when the connection was given up.
async fn flood(wired: &mut Wired) -> usize {
    let chunk = vec![b'x'; 64 * 1024];
    let mut sent = 0;
    while sent < 64 * MIB && wired.closing.reason().is_none() {
        wired.peer.write_all(&chunk).await.unwrap();
        sent += chunk.len();
    }
    sent
}

const MIB: usize = 1 << 20;

#[tokio::test(start_paused = true)]
async fn a_decoder_that_finds_no_frame_is_left_with_16_mib_at_most() {
    let mut lines = wired(framed(LinesCodec::new(), reply_fn(|line: String| line)));
    let sent = flood(&mut lines).await;
    assert!((16 * MIB..18 * MIB).contains(&sent), "{sent} bytes were taken");
    let (reason, text) = ended(lines).await;
    assert_eq!(reason, "input_limit");
    assert!(text.contains("16777216 bytes") && text.contains("input_limit"), "{text}");

    // One that never finds any, in a session.
    let mut greedy =
        wired(session(By(|_: &mut BytesMut| io::Result::Ok(None)), async |mut s: Session<_>| {
            while s.next().await?.is_some() {}
            Ok(())
        }));
    let sent = flood(&mut greedy).await;
    assert!((16 * MIB..18 * MIB).contains(&sent), "{sent} bytes were taken");
    assert_eq!(ended(greedy).await.0, "input_limit");
}

/// Says a frame that is over the input limit, and expects it back.
async fn passes<C>(codec: C, said: &str, input_limit: usize)
where
    C: Decoder<Item: AsRef<[u8]> + Send, Error: Into<BoxError>>
        + Encoder<Bytes, Error: Into<BoxError>>
        + Clone
        + Send
        + 'static,
{
    let echo = reply_fn(|frame: C::Item| Bytes::copy_from_slice(frame.as_ref()));
    let mut wired = wired(framed(codec, echo).input_limit(input_limit));
    let (mut reads, mut writes) = tokio::io::split(wired.peer);
    let mut got = vec![0; said.len()];
    let (sent, read) = tokio::join!(writes.write_all(said.as_bytes()), reads.read_exact(&mut got));
    sent.unwrap();
    read.unwrap();
    assert!(got == said.as_bytes());
    wired.peer = reads.unsplit(writes);
    assert!(wired.end().await.is_ok());
}

#[derive(Clone)]
struct Around<C>(C);

impl<C: Decoder> Decoder for Around<C> {
    type Item = C::Item;
    type Error = C::Error;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<C::Item>, C::Error> {
        self.0.decode(src)
    }
}

impl<C: Encoder<Bytes>> Encoder<Bytes> for Around<C> {
    type Error = C::Error;

    fn encode(&mut self, frame: Bytes, dst: &mut BytesMut) -> Result<(), C::Error> {
        self.0.encode(frame, dst)
    }
}

#[tokio::test(start_paused = true)]
async fn a_codec_with_a_limit_of_its_own_is_not_cut_by_that_of_the_leaf() {
    let large = "x".repeat(17 * MIB) + "\n";
    passes(Lines::lf().max(17 * MIB), &large, 16 * MIB).await;

    let line = "x".repeat(5000) + "\n";
    let lines = Lines::lf().max(5000);
    passes(lines.clone(), &line, 1000).await;
    passes(Lines::delimited("\n").unlimited(), &line, 1000).await;
    passes(lines.clone().map(|line: Bytes| line), &line, 1000).await;
    passes(lines.clone().parse::<Bytes>(), &line, 1000).await;
    passes(Around(lines.clone()), &line, 1000).await;
    passes(Around(lines.map(|line: Bytes| line)).parse::<Bytes>(), &line, 1000).await;
    passes(Strict::new(Endings).max(5001), &line, 1000).await;
    passes(Fixed::new(5000), &line[..5000], 1000).await;
    passes(Netstring::new(), &format!("5000:{},", &line[..5000]), 1000).await;
    passes(LengthPrefixed::u32(), &format!("\0\0\x13\x08{}", &line[..4872]), 1000).await;
}

/// LF, as a format.
#[derive(Clone)]
struct Endings;

impl FindFrame for Endings {
    fn find_frame(&mut self, bytes: &[u8], seen: usize) -> Result<Option<Span>, CodecError> {
        let end = bytes[seen..].iter().position(|&byte| byte == b'\n');
        Ok(end.map(|at| Span { trail: 1, ..Span::bare(seen + at) }))
    }
}

impl Encoder<Bytes> for Endings {
    type Error = CodecError;

    fn encode(&mut self, line: Bytes, dst: &mut BytesMut) -> Result<(), CodecError> {
        Lines::lf().encode(line, dst)
    }
}

#[tokio::test(start_paused = true)]
async fn the_input_limit_is_exact_and_holds_inside_a_conversion_too() {
    let mut lines =
        wired(framed(LinesCodec::new(), reply_fn(|line: String| line)).input_limit(1000));
    lines.say([&[b'x'; 1000][..], b"\n"].concat()).await;
    lines.expect(&("x".repeat(1000) + "\n")).await;
    lines.say([b'y'; 1000]).await;
    settle().await;
    lines.say("\n").await;
    lines.expect(&("y".repeat(1000) + "\n")).await;
    lines.say([b'z'; 1001]).await;
    assert_eq!(ended(lines).await.0, "input_limit");

    let codec = Around(LinesCodec::new()).map(|line: String| line);
    let mut lines = wired(
        session(codec, async |mut s: Session<_>| {
            // Whatever a session makes of the error.
            while s.next().await.is_ok_and(|line| line.is_some()) {}
            assert!(s.next().await?.is_none());
            Ok(())
        })
        .input_limit(1000),
    );
    lines.say([b'x'; 1001]).await;
    assert_eq!(lines.rest().await, "");
    assert_eq!(lines.closing.reason(), Some(CloseReason::InputLimit));
}

/// The note of one codec about its limit does not count for another codec.
#[tokio::test(start_paused = true)]
async fn the_limit_of_a_codec_does_not_hold_for_the_one_after_it() {
    let mut switched = wired(
        session(Lines::lf().unlimited(), async |mut s: Session<_>| {
            while s.next().await?.is_some_and(|line| line != "switch") {}
            let mut s = s.switch(LinesCodec::new())?;
            while s.next().await?.is_some() {}
            Ok(())
        })
        .input_limit(1000),
    );
    switched.say([b'x'; 2000]).await;
    settle().await;
    switched.say("\nswitch\n").await;
    switched.say([b'x'; 2000]).await;
    assert_eq!(ended(switched).await.0, "input_limit");
}

#[tokio::test(start_paused = true)]
async fn a_decoder_that_yields_and_takes_nothing_is_stopped_after_a_thousand_frames() {
    let frames = Arc::default();
    let mut stuck = wired(swallow!(
        By(|src: &mut BytesMut| io::Result::Ok((!src.is_empty()).then(Bytes::new))),
        &frames
    ));
    stuck.say("x").await;
    let (reason, text) = ended(stuck).await;
    assert_eq!(reason, "codec_stalled");
    assert!(text.contains("split_to"), "{text}");
    assert!((100..=1000).contains(&frames.load(Ordering::SeqCst)), "{frames:?}");
}

#[tokio::test(start_paused = true)]
async fn a_decoder_that_gets_stuck_behind_good_frames_is_stopped_too() {
    let frames = Arc::default();
    let takes_x = |src: &mut BytesMut| {
        let take = usize::from(src.first() == Some(&b'x'));
        io::Result::Ok((!src.is_empty()).then(|| src.split_to(take).freeze()))
    };
    let mut stuck = wired(swallow!(By(takes_x), &frames));
    stuck.say("xxxxxxxxy").await;
    assert_eq!(ended(stuck).await.0, "codec_stalled");
    assert!(frames.load(Ordering::SeqCst) < 5000, "{frames:?}");
}

#[tokio::test(start_paused = true)]
async fn an_end_of_stream_that_yields_for_ever_is_stopped() {
    #[derive(Clone)]
    struct Endless;
    impl Decoder for Endless {
        type Item = Bytes;
        type Error = io::Error;
        fn decode(&mut self, _: &mut BytesMut) -> io::Result<Option<Bytes>> {
            Ok(None)
        }
        fn decode_eof(&mut self, _: &mut BytesMut) -> io::Result<Option<Bytes>> {
            Ok(Some(Bytes::new()))
        }
    }
    for said in ["", "x"] {
        let frames = Arc::default();
        let count = counting(&frames);
        let mut endless = wired(session(Endless, move |mut s: Session<_>| {
            let count = count.clone();
            async move {
                while s.next().await?.is_some() {
                    count()?;
                }
                Ok(())
            }
        }));
        endless.say(said).await;
        endless.peer.shutdown().await.unwrap();
        assert_eq!(ended(endless).await.0, "codec_stalled");
        assert!(frames.load(Ordering::SeqCst) <= 1000, "{frames:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_recoverable_error_that_comes_again_and_again_is_stopped() {
    let errors = Arc::new(AtomicUsize::new(0));
    let count = counting(&errors);
    let fails = |src: &mut BytesMut| {
        if src.is_empty() { Ok(None) } else { Err(CodecError::parse("no such thing")) }
    };
    let leaf = framed(By(fails), reply_fn(|frame: Bytes| frame)).on_error(move |error: &Error| {
        let closes = count().is_err() || !error.is_recoverable();
        let reply = Reply::one(Bytes::new());
        if closes { reply.then_close() } else { reply }
    });
    let mut failing = wired(leaf);
    failing.say("x").await;
    failing.rest().await;
    assert_eq!(failing.closing.reason().map(|reason| reason.as_str()), Some("codec_stalled"));
    assert!(errors.load(Ordering::SeqCst) <= 1001, "{errors:?}");
}

#[tokio::test(start_paused = true)]
async fn a_decoder_that_puts_more_into_the_buffer_than_it_takes_is_stopped() {
    let frames = Arc::default();
    let grows = |src: &mut BytesMut| {
        src.extend_from_slice(&[0; 1024]);
        io::Result::Ok(Some(Bytes::new()))
    };
    let mut growing = wired(swallow!(By(grows), &frames));
    growing.say("x").await;
    assert_eq!(ended(growing).await.0, "codec_stalled");

    // By the megabyte it is over the limit first.
    let frames = Arc::default();
    let grows = |src: &mut BytesMut| {
        src.extend_from_slice(&[0; MIB]);
        io::Result::Ok(Some(Bytes::new()))
    };
    let mut growing = wired(swallow!(By(grows), &frames));
    growing.say("x").await;
    assert_eq!(ended(growing).await.0, "input_limit");
    assert!(frames.load(Ordering::SeqCst) <= 17, "{frames:?}");
}

/// It drops bytes that are not a frame and returns `None`, though a frame follows: under tokio-util's
/// `Framed` it would be found with the next bytes only.
#[tokio::test(start_paused = true)]
async fn a_decoder_that_drops_bytes_without_a_frame_is_asked_again() {
    let skips = |src: &mut BytesMut| {
        if src.first() == Some(&b'#') {
            drop(src.split_to(1));
            return io::Result::Ok(None);
        }
        Ok((src.len() >= 2).then(|| src.split_to(2).freeze()))
    };
    let mut skipping = wired(framed(By(skips), reply_fn(|frame: Bytes| frame)));
    skipping.say("#ab##c").await;
    skipping.expect("ab").await;
    skipping.say("d").await;
    skipping.expect("cd").await;
    // More than a turn of it, and then a frame.
    skipping.say([&[b'#'; 10_000][..], b"ef"].concat()).await;
    skipping.expect("ef").await;
    skipping.say([&[b'#'; 1000][..], b"gh"].concat()).await;
    assert_eq!(skipping.finish().await, "gh");
    assert!(skipping.end().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn frames_that_a_decoder_has_queued_are_all_delivered() {
    for (bytes, each) in [(20_000, 1), (1000, 8), (1, 500), (100, 40)] {
        // It parses all there is at once, and then hands out one frame after the other.
        let mut queue = VecDeque::new();
        let parses_all = move |src: &mut BytesMut| {
            let bytes = src.split();
            queue
                .extend(bytes.iter().flat_map(|byte| vec![Bytes::copy_from_slice(&[*byte]); each]));
            io::Result::Ok(queue.pop_front())
        };
        let mut queued = wired(framed(By(parses_all), reply_fn(|frame: Bytes| frame)));
        for _ in 0..3 {
            queued.say(vec![b'x'; bytes]).await;
            queued.expect(&"x".repeat(bytes * each)).await;
        }
        assert_eq!(queued.finish().await, "");
        assert!(queued.end().await.is_ok());
    }
}

/// A frame for each read, of which nothing is taken before the end has come: progress, say. Each
/// waits for the peer.
#[tokio::test(start_paused = true)]
async fn a_frame_now_and_then_for_which_nothing_is_taken_is_no_stall() {
    let mut seen = 0;
    let progress = move |src: &mut BytesMut| {
        let more = src.len() > seen;
        seen = src.len();
        io::Result::Ok(more.then(|| Bytes::from_static(b".")))
    };
    let mut telling = wired(framed(By(progress), reply_fn(|frame: Bytes| frame)));
    for _ in 0..3000 {
        telling.say("x").await;
        telling.expect(".").await;
    }
}
