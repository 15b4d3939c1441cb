//! How many instructions a frame costs, counted by `valgrind --tool=callgrind`: the same on a busy
//! machine as on a quiet one.
//!
//! `cargo bench --bench instructions` runs itself under valgrind, once for each count of frames and
//! each codec, and prints the difference of two counts divided by the frames between them: so the
//! work before and after cancels out. A count is not a time: a decoder of fewer instructions can be
//! the slower one. It distinguishes a change from noise.

#![allow(clippy::print_stdout, clippy::print_stderr)] // it prints what it counted

use std::hint::black_box;
use std::process::{Command, ExitCode};

use bytes::{BufMut, BytesMut};
use ropewalk::codec::Framing;
use ropewalk::{Bytes, CodecExt, LengthPrefixed, Lines, Netstring};
use tokio_util::codec::{Decoder, Encoder, LengthDelimitedCodec, LinesCodec};

/// The frames of a stream, and the two numbers of them that are worked on.
const FRAMES: usize = 1000;
const COUNTS: [usize; 2] = [200, 1000];
const SIZES: [usize; 3] = [16, 64, 512];

type Write = fn(&mut Vec<u8>, &[u8]);
type Work = fn(&[u8], usize, usize);

/// A measured case: its name, its stream, and the code that handles this many frames of it.
const CASES: [(&str, Write, Work); 14] = [
    ("lines, LF: ours", line, |stream, n, _| decode(Lines::lf(), stream, n)),
    ("lines, LF: lent", line, |stream, n, _| lend(Lines::lf(), stream, n)),
    ("lines, LF: tokio-util LinesCodec", line, |stream, n, _| decode(LinesCodec::new(), stream, n)),
    ("lines, LF: ours, through `map`", line, |stream, n, _| {
        decode(Lines::lf().map(|line: Bytes| line), stream, n);
    }),
    ("lines, LF: ours, through `parse`", line, |stream, n, _| {
        decode(Lines::lf().parse::<Bytes>(), stream, n);
    }),
    ("u32 length: ours", prefixed, |stream, n, _| decode(LengthPrefixed::u32(), stream, n)),
    ("u32 length: lent", prefixed, |stream, n, _| lend(LengthPrefixed::u32(), stream, n)),
    ("u32 length: tokio-util LengthDelimitedCodec", prefixed, |stream, n, _| {
        decode(LengthDelimitedCodec::new(), stream, n);
    }),
    ("netstrings: ours", netstring, |stream, n, _| decode(Netstring::new(), stream, n)),
    ("netstrings: lent", netstring, |stream, n, _| lend(Netstring::new(), stream, n)),
    ("encoding lines: ours", line, |_, n, size| {
        encode(Lines::lf(), Bytes::from(vec![b'x'; size]), n);
    }),
    ("encoding lines: tokio-util LinesCodec", line, |_, n, size| {
        encode(LinesCodec::new(), "x".repeat(size), n);
    }),
    ("encoding u32 length: ours", prefixed, |_, n, size| {
        encode(LengthPrefixed::u32(), Bytes::from(vec![b'x'; size]), n);
    }),
    ("encoding u32 length: tokio-util LengthDelimitedCodec", prefixed, |_, n, size| {
        encode(LengthDelimitedCodec::new(), Bytes::from(vec![b'x'; size]), n);
    }),
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("work") => {
            let mut number =
                || arguments.next().and_then(|argument| argument.parse().ok()).expect("a number");
            work(number(), number(), number());
        }
        // `cargo test --benches` only wants to know whether it runs.
        Some("--test") => (0..CASES.len()).for_each(|case| work(case, COUNTS[0], SIZES[0])),
        _ if Command::new("valgrind").arg("--version").output().is_err() => {
            eprintln!("skipped: no valgrind");
        }
        _ => return print(),
    }
    ExitCode::SUCCESS
}

fn work(case: usize, count: usize, size: usize) {
    let (_, write, work) = CASES[case];
    let (mut stream, content) = (Vec::new(), vec![b'x'; size]);
    (0..FRAMES).for_each(|_| write(&mut stream, &content));
    work(&stream, count, size);
}

fn print() -> ExitCode {
    println!(
        "| instructions a frame | {} |",
        SIZES.map(|size| format!("{size} bytes")).join(" | ")
    );
    println!("|---|{}", "---:|".repeat(SIZES.len()));
    for (case, (name, ..)) in CASES.iter().enumerate() {
        print!("| {name} |");
        for size in SIZES {
            let counted = COUNTS.map(|count| instructions(case, count, size));
            let [Some(few), Some(many)] = counted else {
                eprintln!("valgrind did not say how many instructions it counted");
                return ExitCode::FAILURE;
            };
            print!(" {:.0} |", (many - few) as f64 / (COUNTS[1] - COUNTS[0]) as f64);
        }
        println!();
    }
    ExitCode::SUCCESS
}

/// The instructions of a whole run.
fn instructions(case: usize, count: usize, size: usize) -> Option<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().ok()?)
        .args(["work".into(), case.to_string(), count.to_string(), size.to_string()])
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    said.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok())
}

fn line(stream: &mut Vec<u8>, content: &[u8]) {
    stream.extend_from_slice(content);
    stream.push(b'\n');
}

fn prefixed(stream: &mut Vec<u8>, content: &[u8]) {
    stream.put_u32(u32::try_from(content.len()).unwrap_or(0));
    stream.extend_from_slice(content);
}

fn netstring(stream: &mut Vec<u8>, content: &[u8]) {
    stream.extend_from_slice(format!("{}:", content.len()).as_bytes());
    stream.extend_from_slice(content);
    stream.push(b',');
}

fn decode<D: Decoder<Error: std::fmt::Debug>>(mut codec: D, stream: &[u8], count: usize) {
    let mut buffer = BytesMut::from(stream);
    for _ in 0..count {
        black_box(codec.decode(&mut buffer).expect("the stream is whole"));
    }
}

fn lend<C: Framing>(mut codec: C, mut stream: &[u8], count: usize) {
    for _ in 0..count {
        black_box(codec.next_frame(&mut stream).expect("the stream is whole"));
    }
}

fn encode<T: Clone, E: Encoder<T, Error: std::fmt::Debug>>(mut codec: E, frame: T, count: usize) {
    let mut out = BytesMut::with_capacity(FRAMES * 600);
    for _ in 0..count {
        codec.encode(black_box(&frame).clone(), &mut out).expect("a frame");
    }
    black_box(out);
}
