//! What a violation prints, and how a check is told what to do.

use std::io;

use bytes::{Buf, BytesMut};
use ropewalk_codecs::Lines;
use ropewalk_laws::{Fault, Law, Laws};
use tokio_util::codec::Decoder;

use crate::wrong::{Codec, laws_of};
use crate::{Hasty, Rescanning, Smuggler, SplitDelimiter};

const PASTED: &str = r##"law 1, any segmentation, is broken (seed 0)
expected:
    frame b""
got:
    fatal: Truncated { have: 2 }

#[test]
fn law_any_segmentation() {
    // With the options of the check that failed.
    let laws = ropewalk_laws::Laws::new(|| Wrong);
    let reads: &[&[u8]] = &[b"\r", b"\n"];
    assert_eq!(laws.replay(reads), ["frame b\"\""]);
}
"##;

#[test]
fn a_violation_prints_as_a_test_to_paste() {
    let laws = laws_of::<SplitDelimiter>().streams([b"one\r\ntwo\r\nthree\r\n"]);
    assert_eq!(laws.try_check().unwrap_err().to_string(), PASTED);
    // And that test, with its codec, fails.
    let reads: &[&[u8]] = &[b"\r", b"\n"];
    assert_ne!(laws.replay(reads), ["frame b\"\""]);
}

#[test]
#[should_panic(expected = "law 5, linear work, is broken")]
fn the_test_of_a_violation_of_law_5_fails() {
    let laws = laws_of::<Rescanning>();
    let violation =
        laws_of::<Rescanning>().streams(["x".repeat(50) + "\n"]).try_check().unwrap_err();
    let reads: Vec<&[u8]> = violation.segmentation.iter().map(|read| &read[..]).collect();
    assert!(
        violation.to_string().contains("    laws.replay_overwritten(reads, b\"\\n\");\n"),
        "{violation}"
    );
    laws.replay_overwritten(&reads, b"\n");
}

#[test]
#[should_panic(expected = "law 3, prefix safety, is broken")]
fn check_panics_with_the_violation() {
    ropewalk_laws::check(Codec::<Hasty>::default, ["a"]);
}

#[test]
#[should_panic(expected = "law 3, prefix safety, is broken")]
fn replay_panics_with_the_findings_of_one_run() {
    let _ = laws_of::<Hasty>().replay(&[b"a", b"b"]);
}

#[test]
fn another_seed_gives_other_streams_and_is_printed() {
    let laws = |seed| {
        laws_of::<Smuggler>().streams(["a\nbb\n"]).limit(9).seed(seed).try_check().unwrap_err()
    };
    assert_eq!(laws(7).seed, 7);
    assert!(laws(7).to_string().contains("(seed 7)"));
    let checked = |seed| Laws::new(Lines::lf).streams(["a\nbb\n"]).seed(seed).check().runs;
    assert_eq!(checked(1), checked(1));
    assert_ne!(checked(1), checked(2));
}

#[test]
fn errors_of_other_types_end_the_run_unless_told_otherwise() {
    /// Fails at `!` and goes on behind it.
    #[derive(Clone)]
    struct Foreign;
    impl Decoder for Foreign {
        type Item = u8;
        type Error = io::Error;
        fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<u8>> {
            match src.is_empty().then_some(0).or_else(|| Some(src.get_u8())) {
                Some(b'!') => Err(io::Error::other("bang")),
                Some(0) => Ok(None),
                byte => Ok(byte),
            }
        }
    }
    let laws = || Laws::new(|| Foreign).streams(["a!b"]);
    assert_eq!(laws().replay(&[b"a!b"]), ["frame 97", "error: bang"]);
    let goes_on = laws().errors(Fault::recoverable);
    assert_eq!(goes_on.replay(&[b"a!b"]), ["frame 97", "recoverable: bang", "frame 98"]);
    goes_on.check();
    assert_eq!(laws().errors(Fault::fatal).try_check().unwrap_err().law, Law::PlacedErrors);
}

#[test]
fn a_check_prints_with_its_seed() {
    let laws = Laws::new(|| Lines::lf().max(3)).streams([b"one\n"]).seed(7).limit(4);
    let text = format!("{laws:?}");
    assert!(text.starts_with("Laws { streams: 1, sequences: 0, limit: Some(4)"), "{text}");
    assert!(text.contains("seed: 7"), "{text}");
    let report = laws.try_check().expect("lines keep the laws").to_string();
    assert!(report.contains(" streams in ") && report.contains(" runs with seed 7, "), "{report}");
}
