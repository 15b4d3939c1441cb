//! A law that was broken, and the test that shows it.

use std::error::Error;
use std::fmt;

use super::law::Law;

/// A law that a codec breaks, on a stream as short as the kit could make it.
///
/// It prints the expected and the actual result, and a test to paste.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Violation {
    /// The law.
    pub law: Law,
    /// The bytes of the stream; for law 7, the buffer to encode into.
    pub stream: Vec<u8>,
    /// The reads in which they arrived.
    pub segmentation: Vec<Vec<u8>>,
    /// The expected result: a line for each frame or error, or a sentence.
    pub expected: Vec<String>,
    /// The actual result.
    pub got: Vec<String>,
    /// The seed of the check that found it.
    pub seed: u64,
    pub(super) test: Box<Test>,
}

/// The contents of its test.
#[derive(Debug, Clone)]
pub(super) struct Test {
    /// The expression for the codec, if the user gave one.
    pub(super) expression: Option<String>,
    pub(super) type_name: &'static str,
    pub(super) replay: Replay,
}

/// How the test reproduces the violation.
#[derive(Debug, Clone)]
pub(super) enum Replay {
    /// These reads have to give what was expected.
    Gives,
    /// These reads have to end with what was expected.
    EndsWith,
    /// The run detects it by itself.
    Alone,
    /// With bytes overwritten.
    Overwritten(Vec<u8>),
    /// Encoding this frame, which is accepted or refused.
    Encodes { frame: String, taken: bool },
}

/// Bytes as a literal.
fn literal(bytes: &[u8]) -> String {
    format!("b\"{}\"", bytes.escape_ascii())
}

impl Violation {
    /// The reads as a literal.
    fn reads(&self) -> String {
        let reads: Vec<String> = self.segmentation.iter().map(|read| literal(read)).collect();
        format!("&[{}]", reads.join(", "))
    }

    /// A test that fails until the codec is fixed.
    fn write_test(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = format!("law {}", self.law.title()).replace(' ', "_");
        writeln!(f, "#[test]\nfn {name}() {{")?;
        let make = match &self.test.expression {
            Some(expression) => format!("|| {expression}"),
            None => {
                writeln!(f, "    // `make_codec` makes a `{}`.", self.test.type_name)?;
                "make_codec".to_owned()
            }
        };
        if let Replay::Encodes { frame, taken } = &self.test.replay {
            writeln!(f, "    let make_codec = {make};")?;
            writeln!(
                f,
                "    let mut buffer = bytes::BytesMut::from(&{}[..]);",
                literal(&self.stream)
            )?;
            let is = if *taken { "is_ok" } else { "is_err" };
            let encode = "tokio_util::codec::Encoder::encode";
            writeln!(f, "    assert!({encode}(&mut make_codec(), {frame}, &mut buffer).{is}());")?;
            let until = if *taken { self.stream.len().to_string() } else { String::new() };
            return writeln!(
                f,
                "    assert_eq!(&buffer[..{until}], {});\n}}",
                literal(&self.stream)
            );
        }
        writeln!(f, "    // With the options of the check that failed.")?;
        writeln!(f, "    let laws = ropewalk_laws::Laws::new({make});")?;
        writeln!(f, "    let reads: &[&[u8]] = {};", self.reads())?;
        match &self.test.replay {
            Replay::Gives => {
                let expected = if self.expected.is_empty() {
                    "[\"\"; 0]".to_owned()
                } else {
                    format!("{:?}", self.expected)
                };
                writeln!(f, "    assert_eq!(laws.replay(reads), {expected});\n}}")
            }
            Replay::EndsWith => {
                writeln!(
                    f,
                    "    assert!(laws.replay(reads).ends_with(&{:?}.map(String::from)));\n}}",
                    self.expected
                )
            }
            Replay::Overwritten(filler) => {
                writeln!(f, "    laws.replay_overwritten(reads, {});\n}}", literal(filler))
            }
            Replay::Alone | Replay::Encodes { .. } => writeln!(f, "    laws.replay(reads);\n}}"),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} is broken (seed {})", self.law, self.seed)?;
        for (word, lines) in [("expected", &self.expected), ("got", &self.got)] {
            writeln!(f, "{word}:")?;
            for line in lines {
                writeln!(f, "    {line}")?;
            }
        }
        writeln!(f)?;
        self.write_test(f)
    }
}

impl Error for Violation {}
