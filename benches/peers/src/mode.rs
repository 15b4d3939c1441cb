//! How frames look on the wire, and the stream of frames that is sent and expected back.

use std::fmt;

use clap::ValueEnum;

/// How frames are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Up to a line feed
    Line,
    /// Behind their length in four bytes, the highest first
    Int32,
    /// `5:hello,`
    Netstring,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Line => "line",
            Self::Int32 => "int32",
            Self::Netstring => "netstring",
        })
    }
}

impl Mode {
    fn encode(self, content: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Line => {
                out.extend_from_slice(content);
                out.push(b'\n');
            }
            Self::Int32 => {
                let length = u32::try_from(content.len()).expect("a frame is far smaller");
                out.extend_from_slice(&length.to_be_bytes());
                out.extend_from_slice(content);
            }
            Self::Netstring => {
                out.extend_from_slice(format!("{}:", content.len()).as_bytes());
                out.extend_from_slice(content);
                out.push(b',');
            }
        }
    }
}

/// Encoded frames, one after the other, each unlike its neighbours. A burst is a slice of it, and
/// so is the answer to it: sending costs no encoding, checking one comparison, and a frame lost,
/// doubled, out of order or of another connection is noticed.
pub struct Pattern {
    bytes: Vec<u8>,
    frame: usize,
    burst: usize,
    phases: usize,
}

impl Pattern {
    /// Bursts of `depth` frames with `size` bytes of content each.
    pub fn new(mode: Mode, size: usize, depth: usize) -> Self {
        // Not so much that it would not fit the cache, and no divisor of usual depths.
        let phases = (64 * 1024 / size.max(1)).clamp(7, 97) | 1;
        let mut bytes = Vec::new();
        for i in 0..phases + depth {
            let mut content: Vec<u8> = format!("{i:08}").into_bytes();
            content.extend((content.len()..size.max(8)).map(|j| b'a' + ((i + j) % 26) as u8));
            mode.encode(&content[..size], &mut bytes);
        }
        let frame = bytes.len() / (phases + depth);
        Self { bytes, frame, burst: frame * depth, phases }
    }

    /// The bytes of one frame on the wire.
    pub fn frame(&self) -> usize {
        self.frame
    }

    /// The burst of a phase; any number is one.
    pub fn burst(&self, phase: usize) -> &[u8] {
        &self.bytes[phase % self.phases * self.frame..][..self.burst]
    }
}
