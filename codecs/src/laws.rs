//! What holds for every codec, as checks for codecs of your own (feature `laws`).
//!
//! Seven laws hold for each codec of this crate; [`Law`] has them, each with a wrong codec that breaks it. Give
//! [`Laws`] what makes your codec, some streams to decode and some frames to encode, and check them in a test:
//!
//! ```
//! use bytes::Bytes;
//! use ropewalk_codecs::Netstring;
//! use ropewalk_codecs::laws::Laws;
//!
//! let report = Laws::new(|| Netstring::new().max(80))
//!     .streams(["5:hello,0:,", "3:abc", "81:", "01:a,", "1:a;1:b,"]) // well-formed or not
//!     .frames(["hello", "", "a frame that is longer than two windows, which law 5 needs", "1:a,"].map(Bytes::from))
//!     .limit(80 + 4) // 2 digits, colon, comma
//!     .window(4)
//!     .check();
//! assert!(report.overwritten > 0);
//! ```
//!
//! Codecs that deliver the rest at the end of the stream need [`Laws::final_frame`], those that deliver bytes as they
//! come [`Laws::merge`], those with errors of their own [`Laws::errors`].
//!
//! The kit chooses cuts and makes more streams from those given by numbers that only look random: the same
//! [seed](Laws::seed) gives the same run. What breaks a law is made as short as possible and comes as a [`Violation`],
//! which prints as a test to paste:
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
//!     let laws = ropewalk_codecs::laws::Laws::new(|| MyCodec::default());
//!     let reads: &[&[u8]] = &[b"\r", b"\n"];
//!     assert_eq!(laws.replay(reads), ["frame b\"\""]);
//! }
//! ```
//!
//! It drives the decoder as `Framed` does: bytes are appended, `decode` is called until it wants more, and `decode_eof`
//! at the end until there is nothing. A law that is not broken on these streams is not proven; the more streams, and
//! the closer they are to what can go wrong, the more it says.

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

/// A decoder the laws can be checked on: any whose frames can be compared and shown, and whose errors can be shown.
#[diagnostic::on_unimplemented(
    message = "the laws cannot be checked on `{Self}`",
    note = "it has to be a `Decoder` without borrowed data, its frames `PartialEq + Debug`, its errors `Display`"
)]
pub trait Subject: Decoder<Item: PartialEq + Debug, Error: Display + 'static> + 'static {}

impl<C: Decoder<Item: PartialEq + Debug, Error: Display + 'static> + 'static> Subject for C {}

/// Checks laws 1 and 3 to 6 on these streams; [`Laws`] has the options, among them the frames for laws 2 and 7.
///
/// ```
/// use ropewalk_codecs::{Lines, laws};
///
/// laws::check(Lines::crlf, [&b"one\r\ntwo\r\n"[..], b"half a li", b"\r\r\n\n\r"]);
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
// The bound stands here because the functions below are of what the decoder gives.
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
    /// With which the same check can be made again.
    pub seed: u64,
    /// The streams, those made from others among them.
    pub streams: usize,
    /// How often a stream went through a decoder.
    pub runs: usize,
    /// How many bytes law 5 overwrote. If 0, no frame that came in pieces was longer than two
    /// [windows](Laws::window), and nothing was checked.
    pub overwritten: usize,
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, streams, runs, overwritten } = self;
        write!(f, "{streams} streams in {runs} runs with seed {seed}, {overwritten} bytes overwritten")
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
    /// The laws for what `make_codec` makes: a codec at the start of a stream, each time.
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

    /// Frames to encode, one after the other, for laws 2 and 7. What encoding refuses is left out of the stream, the
    /// rest has to come back; and the stream they make is one more to [decode](Self::streams).
    ///
    /// Called again, it adds another sequence. The first frame of all is also what has to come after a recoverable
    /// error.
    #[must_use]
    pub fn frames(self, frames: impl IntoIterator<Item = C::Item>) -> Self
    where
        C: Encoder<C::Item>,
        C::Item: Clone,
    {
        self.frames_as(frames, C::Item::clone)
    }

    /// [`frames`](Self::frames) of another type than what is decoded: `decoded` says what has to come back for each.
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
            let (again, decoded) = (frame.clone(), decoded.clone());
            Sent {
                encode: Box::new(move |codec: &mut C, buffer| codec.encode(frame.clone(), buffer).is_ok()),
                item: Box::new(move || decoded(&again)),
                shown,
            }
        };
        self.sequences.push(frames.into_iter().map(sent).collect());
        self
    }

    /// The most bytes the decoder may leave unread when it wants more: its longest frame with prefix or delimiter.
    /// Without it law 4 is checked only in that the decoder must not make the buffer grow.
    #[must_use]
    pub fn limit(mut self, bytes: usize) -> Self {
        self.limit = Some(bytes);
        self
    }

    /// How many bytes at the start and at the end of what is unread the decoder may look at again when more has come:
    /// the longest prefix or delimiter. Default: 16.
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

    /// Other random cuts and streams. Default: 0.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// How many random segmentations each stream comes in, besides those chosen by rule. Default: 32.
    #[must_use]
    pub fn splits(mut self, splits: usize) -> Self {
        self.splits = splits;
        self
    }

    /// How many streams are made from the given ones by dropping, doubling, replacing and mixing bytes. Default: 64.
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

    /// Frames of which it does not matter how they are cut, as chunks of raw bytes: `merge` appends a frame to the one
    /// before, or gives it back if the two do not belong together.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use ropewalk_codecs::RawBytes;
    /// use ropewalk_codecs::laws::Laws;
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
    pub fn merge(mut self, merge: impl Fn(&mut C::Item, C::Item) -> Option<C::Item> + 'static) -> Self {
        self.merge = Some(Box::new(merge));
        self
    }

    /// How errors of another type than [`CodecError`](crate::CodecError) are compared, and which are fatal: see
    /// [`Fault`].
    #[must_use]
    pub fn errors(mut self, fault: impl Fn(&C::Error) -> Fault + 'static) -> Self {
        self.faults = Box::new(fault);
        self
    }

    /// What to write for the codec in the test of a violation, as `Lines::crlf().max(80)`.
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
    /// The first that is broken.
    pub fn try_check(&self) -> Result<Report, Violation> {
        self.check_all()
    }

    /// What the decoder gives for these reads and the end of the stream, a line for each frame and each error. A
    /// violation prints as a test that calls this.
    ///
    /// # Panics
    ///
    /// If that alone breaks a law: 3, 4, 5 or 6.
    #[track_caller]
    #[must_use]
    pub fn replay(&self, reads: &[&[u8]]) -> Vec<String> {
        let run = drive::drive(self, (self.make)(), reads, None);
        let run = run.unwrap_or_else(|broken| panic!("{}", self.alone(&reads.concat(), &cuts_of(reads), broken)));
        run.events.iter().map(Event::show).collect()
    }

    /// Checks law 5 on these reads: frames end where they did when what was seen is overwritten with `filler`.
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

/// Where these reads end, save the last.
fn cuts_of(reads: &[&[u8]]) -> Vec<usize> {
    let ends = reads.iter().scan(0, |end, read| {
        *end += read.len();
        Some(*end)
    });
    ends.take(reads.len().saturating_sub(1)).collect()
}
