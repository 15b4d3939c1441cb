//! The laws of codecs, as checks for codecs of your own.
//!
//! Seven laws hold for each codec of `ropewalk-codecs`; [`Law`] lists them, each with a wrong codec
//! that breaks it. Give [`Laws`] a function that makes your codec, some streams to decode and some
//! frames to encode, and check them in a test:
//!
//! ```
//! use bytes::Bytes;
//! use ropewalk_codecs::Netstring;
//! use ropewalk_laws::Laws;
//!
//! let report = Laws::new(|| Netstring::new().max(80))
//!     // Well-formed or not.
//!     .streams(["5:hello,0:,", "3:abc", "81:", "01:a,", "1:a;1:b,"])
//!     // Law 5 needs a long one.
//!     .frames(["hello", "", "longer than two windows", "1:a,"].map(Bytes::from))
//!     .limit(80 + 4) // 2 digits, colon, comma
//!     .window(4)
//!     .check();
//! assert!(report.overwritten > 0);
//! ```
//!
//! Codecs that deliver the rest at the end of the stream need [`Laws::final_frame`], those that
//! deliver bytes as they arrive need [`Laws::merge`], and those with an error type of their own
//! need [`Laws::errors`].
//!
//! Where streams are cut, and which variants of them are made, is pseudo-random: the same
//! [seed](Laws::seed) gives the same run. A stream that breaks a law is made as short as possible
//! and reported as a [`Violation`], which prints as a test to paste:
//!
//! ```text
//! law 1, any segmentation, is broken (seed 0)
//! expected:
//!     frame b""
//! got:
//!     error: bytes remaining on stream
//!
//! #[test]
//! fn law_any_segmentation() {
//!     // With the options of the check that failed.
//!     let laws = ropewalk_laws::Laws::new(|| MyCodec::default());
//!     let reads: &[&[u8]] = &[b"\r", b"\n"];
//!     assert_eq!(laws.replay(reads), ["frame b\"\""]);
//! }
//! ```
//!
//! The decoder is driven as `Framed` drives it: bytes are appended, `decode` is called until it
//! wants more, and at the end `decode_eof` until it returns nothing. A law that holds on these
//! streams is not proven: the result is worth more with more streams, and with streams closer to
//! what can go wrong.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

mod check;
mod cuts;
mod drive;
mod encode;
mod fault;
mod law;
mod lent;
mod random;
mod shrink;
mod violation;

use std::fmt::{self, Debug, Display};

use tokio_util::codec::{Decoder, Encoder};

use self::drive::Event;
use self::encode::Sent;
pub use self::fault::Fault;
pub use self::law::Law;
pub use self::lent::Lent;
pub use self::violation::Violation;

/// A decoder on which the laws can be checked: its frames can be compared and printed, its errors
/// can be printed.
#[diagnostic::on_unimplemented(
    message = "the laws cannot be checked on `{Self}`",
    note = "it has to be a `Decoder` without borrowed data, its frames `PartialEq + Debug`, its errors `Display`"
)]
pub trait Subject: Decoder<Item: PartialEq + Debug, Error: Display + 'static> + 'static {}

impl<C: Decoder<Item: PartialEq + Debug, Error: Display + 'static> + 'static> Subject for C {}

/// Checks laws 1 and 3 to 6 on these streams; [`Laws`] has the options, among them the frames for
/// laws 2 and 7.
///
/// ```
/// use ropewalk_codecs::Lines;
///
/// ropewalk_laws::check(Lines::crlf, [&b"one\r\ntwo\r\n"[..], b"half a li", b"\r\r\n\n\r"]);
/// ```
///
/// # Panics
///
/// If one is broken, with the [`Violation`].
#[track_caller]
pub fn check<C: Subject>(
    make_codec: impl Fn() -> C + 'static,
    streams: impl IntoIterator<Item = impl AsRef<[u8]>>,
) -> Report {
    Laws::new(make_codec).streams(streams).check()
}

type Faults<E> = Box<dyn Fn(&E) -> Fault>;
type Merge<T> = Box<dyn Fn(&mut T, T) -> Option<T>>;

/// The laws for one codec: what to check them on, and how. The [module](self) has an example.
// The bound stands on the struct because fields use the decoder's associated types.
pub struct Laws<C: Decoder> {
    make: Box<dyn Fn() -> C>,
    expression: Option<String>,
    streams: Vec<Vec<u8>>,
    sequences: Vec<Vec<Sent<C>>>,
    limit: Option<usize>,
    window: usize,
    seed: u64,
    splits: usize,
    variants: usize,
    final_frame: bool,
    merge: Option<Merge<C::Item>>,
    faults: Faults<C::Error>,
}

/// What was checked.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Report {
    /// The seed that repeats this check.
    pub seed: u64,
    /// The streams, including those made from others.
    pub streams: usize,
    /// How often a stream was decoded.
    pub runs: usize,
    /// How many bytes law 5 overwrote. If it is 0, no frame that arrived in pieces was longer than
    /// two [windows](Laws::window), and law 5 was not checked.
    pub overwritten: usize,
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, streams, runs, overwritten } = self;
        write!(
            f,
            "{streams} streams in {runs} runs with seed {seed}, {overwritten} bytes overwritten"
        )
    }
}

impl<C: Decoder> Debug for Laws<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Laws")
            .field("streams", &self.streams.len())
            .field("sequences", &self.sequences.len())
            .field("limit", &self.limit)
            .field("window", &self.window)
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

impl<C: Subject> Laws<C> {
    /// The laws for the codecs that `make_codec` makes, each one for the start of a stream.
    pub fn new(make_codec: impl Fn() -> C + 'static) -> Self {
        Self {
            make: Box::new(make_codec),
            expression: None,
            streams: Vec::new(),
            sequences: Vec::new(),
            limit: None,
            window: 16,
            seed: 0,
            splits: 32,
            variants: 64,
            final_frame: false,
            merge: None,
            faults: Box::new(Fault::of),
        }
    }

    /// More streams to decode, well-formed or not.
    #[must_use]
    pub fn streams(mut self, streams: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        self.streams.extend(streams.into_iter().map(|stream| stream.as_ref().to_vec()));
        self
    }

    /// Frames to encode, one after the other, for laws 2 and 7. Frames that encoding refuses are
    /// left out of the stream, all others have to be decoded again. The encoded stream is also
    /// added to the [streams](Self::streams).
    ///
    /// Each call adds another sequence. The first frame of the first sequence also has to be
    /// delivered after a recoverable error.
    #[must_use]
    pub fn frames(self, frames: impl IntoIterator<Item = C::Item>) -> Self
    where
        C: Encoder<C::Item>,
        C::Item: Clone,
    {
        self.frames_as(frames, C::Item::clone)
    }

    /// [`frames`](Self::frames) of another type than the decoded ones: `decoded` gives the frame
    /// expected for each.
    #[must_use]
    pub fn frames_as<F>(
        mut self,
        frames: impl IntoIterator<Item = F>,
        decoded: impl Fn(&F) -> C::Item + Clone + 'static,
    ) -> Self
    where
        C: Encoder<F>,
        F: Clone + Debug + 'static,
    {
        let sent = |frame: F| {
            let shown = format!("{frame:?}");
            let again = frame.clone();
            let decoded = decoded.clone();
            Sent {
                encode: Box::new(move |codec: &mut C, buffer| {
                    codec.encode(frame.clone(), buffer).is_ok()
                }),
                item: Box::new(move || decoded(&again)),
                shown,
            }
        };
        self.sequences.push(frames.into_iter().map(sent).collect());
        self
    }

    /// The most bytes the decoder may leave unread when it wants more: its longest frame with
    /// prefix or delimiter. Without it law 4 only checks that the decoder doesn't make the buffer
    /// grow.
    #[must_use]
    pub fn limit(mut self, bytes: usize) -> Self {
        self.limit = Some(bytes);
        self
    }

    /// How many bytes at the start and at the end of the unread bytes the decoder may examine again
    /// when more has arrived: the longest prefix or delimiter. Default: 16.
    ///
    /// # Panics
    ///
    /// If that is 0.
    #[must_use]
    pub fn window(mut self, bytes: usize) -> Self {
        assert!(bytes > 0, "a window has at least one byte");
        self.window = bytes;
        self
    }

    /// The seed of the random cuts and streams. Default: 0.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// How many random segmentations are tried with each stream, besides those chosen by rule.
    /// Default: 32.
    #[must_use]
    pub fn splits(mut self, splits: usize) -> Self {
        self.splits = splits;
        self
    }

    /// How many streams are made from the given ones by dropping, doubling, replacing and mixing
    /// bytes. Default: 64.
    #[must_use]
    pub fn variants(mut self, variants: usize) -> Self {
        self.variants = variants;
        self
    }

    /// The decoder delivers what is left at the end of the stream as a frame.
    #[must_use]
    pub fn final_frame(mut self) -> Self {
        self.final_frame = true;
        self
    }

    /// For frames whose boundaries don't matter, such as chunks of raw bytes: `merge` appends a
    /// frame to the one before, or returns it if the two do not belong together.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use ropewalk_codecs::RawBytes;
    /// use ropewalk_laws::Laws;
    ///
    /// Laws::new(|| RawBytes)
    ///     .merge(|all, next: Bytes| {
    ///         *all = [&all[..], &next[..]].concat().into();
    ///         None
    ///     })
    ///     .streams(["whatever"])
    ///     .check();
    /// ```
    #[must_use]
    pub fn merge(
        mut self,
        merge: impl Fn(&mut C::Item, C::Item) -> Option<C::Item> + 'static,
    ) -> Self {
        self.merge = Some(Box::new(merge));
        self
    }

    /// Says how errors of another type than [`CodecError`](ropewalk_codecs::CodecError) are
    /// compared, and which are fatal: see [`Fault`].
    #[must_use]
    pub fn errors(mut self, fault: impl Fn(&C::Error) -> Fault + 'static) -> Self {
        self.faults = Box::new(fault);
        self
    }

    /// The expression for the codec in the test of a violation, such as `Lines::crlf().max(80)`.
    #[must_use]
    pub fn named(mut self, expression: impl Into<String>) -> Self {
        self.expression = Some(expression.into());
        self
    }

    /// Checks the laws.
    ///
    /// # Panics
    ///
    /// If one is broken, with the [`Violation`].
    #[track_caller]
    pub fn check(&self) -> Report {
        self.try_check().unwrap_or_else(|violation| panic!("{violation}"))
    }

    /// Checks the laws.
    ///
    /// # Errors
    ///
    /// The first violation.
    pub fn try_check(&self) -> Result<Report, Violation> {
        self.check_all()
    }

    /// What the decoder returns for these reads and the end of the stream: a line for each frame
    /// and each error. A violation prints as a test that calls this.
    ///
    /// # Panics
    ///
    /// If this run alone breaks a law: 3, 4, 5 or 6.
    #[track_caller]
    #[must_use]
    pub fn replay(&self, reads: &[&[u8]]) -> Vec<String> {
        let run = drive::drive(self, (self.make)(), reads, None);
        let run = run.unwrap_or_else(|broken| {
            panic!("{}", self.alone(&reads.concat(), &cuts_of(reads), broken))
        });
        run.events.iter().map(Event::show).collect()
    }

    /// Checks law 5 on these reads: frames must end at the same offsets when the bytes already seen
    /// are overwritten with `filler`.
    ///
    /// # Panics
    ///
    /// If they do not, or if `filler` is empty.
    #[track_caller]
    pub fn replay_overwritten(&self, reads: &[&[u8]], filler: &[u8]) {
        assert!(!filler.is_empty(), "a filler has at least one byte");
        if let Err(violation) = self.overwritten(&reads.concat(), &cuts_of(reads), filler) {
            panic!("{violation}");
        }
    }

    fn fault(&self, error: &C::Error) -> Fault {
        (self.faults)(error)
    }
}

/// Where these reads end, except the last.
fn cuts_of(reads: &[&[u8]]) -> Vec<usize> {
    let ends = reads.iter().scan(0, |end, read| {
        *end += read.len();
        Some(*end)
    });
    ends.take(reads.len().saturating_sub(1)).collect()
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
