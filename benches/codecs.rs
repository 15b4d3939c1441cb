//! Codecs against tokio-util's of the same kind, and against the least that finding the frames
//! costs.
//!
//! `cargo bench --bench codecs` measures and ends with a table of nanoseconds a frame, GB/s, and
//! ratios. The figures of one run compare with each other and with no other run's.
//! `PLOT=codecs/frames.svg` before it draws those of lines as well.

mod support;

use std::error::Error;
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use criterion::{BatchSize, Criterion};
use ropewalk::codec::Framing;
use ropewalk::{Bytes, LengthPrefixed, Lines, Netstring};
use support::plot::{self, Series};
use support::{Row, Table};
use tokio_util::codec::{AnyDelimiterCodec, Decoder, Encoder, LengthDelimitedCodec, LinesCodec};

/// What one read brings.
const READ: usize = 64 * 1024;
const SIZES: [usize; 5] = [16, 64, 512, 2048, 8192];

fn main() -> Result<(), Box<dyn Error>> {
    // `cargo test --benches` runs each once and prints no table.
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let mut table = Table::default();
    for size in SIZES {
        lines(&mut criterion, &mut table, size, "\n", &Lines::lf());
        lines(&mut criterion, &mut table, size, "\r\n", &Lines::crlf());
        prefixed(&mut criterion, &mut table, size);
        netstrings(&mut criterion, &mut table, size);
        encoding_lines(&mut criterion, &mut table, size);
        encoding_prefixed(&mut criterion, &mut table, size);
    }
    empty(&mut criterion, &mut table);
    dripped(&mut criterion, &mut table);
    criterion.final_summary();
    table.print();
    if let Some(file) = std::env::var_os("PLOT") {
        // A path is one in the repository: cargo runs a benchmark in the folder of its package.
        std::fs::write(
            Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(file),
            drawing(&table)?,
        )?;
    }
    Ok(())
}

/// Lines that end with LF, by their decoder.
fn drawing(table: &Table) -> Result<String, std::fmt::Error> {
    let series = |(name, who): (&str, &str)| {
        let point = |size: usize| Some((size as f64, table.time("lines, LF", size, who)?));
        Series { name: name.into(), points: SIZES.into_iter().filter_map(point).collect() }
    };
    let all = [
        ("Lines", "ours"),
        ("Lines, lent", "lent"),
        ("LinesCodec", "tokio-util LinesCodec"),
        ("AnyDelimiterCodec", "tokio-util Any"),
        ("memchr alone", "limit"),
    ];
    plot::draw("Decoding lines: time for one", &all.map(series))
}

/// A read full of frames of `size` bytes, each written by `frame`, and how many there are.
fn stream(size: usize, frame: impl Fn(&mut Vec<u8>, &[u8])) -> (Vec<u8>, usize) {
    let (content, mut stream, mut frames) = (vec![b'x'; size], Vec::new(), 0);
    loop {
        let before = stream.len();
        frame(&mut stream, &content);
        if stream.len() > READ && frames > 0 {
            stream.truncate(before);
            return (stream, frames);
        }
        frames += 1;
    }
}

/// Measures how long it takes to decode the whole stream, which is in the processor's cache, as
/// bytes that were just read are.
fn decode<D>(
    criterion: &mut Criterion,
    table: &mut Table,
    row: Row<'_>,
    stream: &[u8],
    codec: impl Fn() -> D,
) where
    D: Decoder<Error: std::fmt::Debug>,
{
    table.measure(criterion, row, |bencher| {
        bencher.iter_batched(
            || (codec(), BytesMut::from(stream)),
            |(mut codec, mut buffer)| {
                while let Some(frame) = codec.decode(&mut buffer).expect("the stream is whole") {
                    black_box(&frame);
                }
                buffer
            },
            BatchSize::PerIteration,
        );
    });
}

/// The same for frames that stay where they are.
fn lend<C: Framing>(
    criterion: &mut Criterion,
    table: &mut Table,
    row: Row<'_>,
    stream: &[u8],
    codec: impl Fn() -> C,
) {
    table.measure(criterion, row, |bencher| {
        bencher.iter(|| {
            let (mut codec, mut rest) = (codec(), black_box(stream));
            while let Some(frame) = codec.next_frame(&mut rest).expect("the stream is whole") {
                black_box(frame);
            }
        });
    });
}

/// Measures a plain walk over the bytes: the limit.
fn walk(
    criterion: &mut Criterion,
    table: &mut Table,
    row: Row<'_>,
    stream: &[u8],
    walk: impl Fn(&[u8]) -> usize,
) {
    table.measure(criterion, row, |bencher| bencher.iter(|| walk(black_box(stream))));
}

fn lines(
    criterion: &mut Criterion,
    table: &mut Table,
    size: usize,
    end: &'static str,
    ours: &Lines,
) {
    let (stream, frames) = stream(size, |stream, content| {
        stream.extend_from_slice(content);
        stream.extend_from_slice(end.as_bytes());
    });
    let kind = if end == "\n" { "lines, LF" } else { "lines, CR LF" };
    let row = |who| Row { kind, size, who, frames, bytes: stream.len() };
    decode(criterion, table, row("ours"), &stream, || ours.clone());
    lend(criterion, table, row("lent"), &stream, || ours.clone());
    decode(criterion, table, row("tokio-util LinesCodec"), &stream, LinesCodec::new);
    decode(criterion, table, row("tokio-util AnyDelimiterCodec"), &stream, || {
        AnyDelimiterCodec::new(b"\n".to_vec(), b"\n".to_vec())
    });
    walk(criterion, table, row("limit: memchr_iter"), &stream, |stream| {
        let mut start = 0;
        memchr::memchr_iter(b'\n', stream).fold(0, |count, at| {
            black_box(&stream[start..at]);
            start = at + 1;
            count + 1
        })
    });
}

fn prefixed(criterion: &mut Criterion, table: &mut Table, size: usize) {
    let (stream, frames) = stream(size, |stream, content| {
        stream.put_u32(u32::try_from(content.len()).unwrap_or(0));
        stream.extend_from_slice(content);
    });
    let row = |who| Row { kind: "u32 length", size, who, frames, bytes: stream.len() };
    decode(criterion, table, row("ours"), &stream, LengthPrefixed::u32);
    lend(criterion, table, row("lent"), &stream, LengthPrefixed::u32);
    decode(
        criterion,
        table,
        row("tokio-util LengthDelimitedCodec"),
        &stream,
        LengthDelimitedCodec::new,
    );
    walk(criterion, table, row("limit: walk of the prefixes"), &stream, |mut stream| {
        let mut count = 0;
        while let Some((prefix, rest)) = stream.split_first_chunk::<4>() {
            let (frame, rest) = rest.split_at(u32::from_be_bytes(*prefix) as usize);
            black_box(frame);
            (stream, count) = (rest, count + 1);
        }
        count
    });
}

fn netstrings(criterion: &mut Criterion, table: &mut Table, size: usize) {
    let (stream, frames) = stream(size, |stream, content| {
        stream.extend_from_slice(format!("{}:", content.len()).as_bytes());
        stream.extend_from_slice(content);
        stream.push(b',');
    });
    let row = |who| Row { kind: "netstrings", size, who, frames, bytes: stream.len() };
    decode(criterion, table, row("ours"), &stream, Netstring::new);
    lend(criterion, table, row("lent"), &stream, Netstring::new);
}

/// Measures how long it takes to write a read's worth of frames.
fn encode(
    criterion: &mut Criterion,
    table: &mut Table,
    row: Row<'_>,
    write: impl Fn(&mut BytesMut),
) {
    let mut out = BytesMut::with_capacity(2 * READ);
    table.measure(criterion, row, |bencher| {
        bencher.iter(|| {
            out.clear();
            write(&mut out);
            black_box(&out);
        });
    });
}

fn encoding_lines(criterion: &mut Criterion, table: &mut Table, size: usize) {
    let frame = Bytes::from(vec![b'x'; size]);
    let text = String::from_utf8_lossy(&frame).into_owned();
    let frames = READ / (size + 1);
    let row = |who| Row { kind: "encoding lines", size, who, frames, bytes: frames * (size + 1) };
    encode(criterion, table, row("ours"), |out| {
        let mut codec = Lines::lf();
        (0..frames).for_each(|_| codec.encode(black_box(&frame), out).expect("a line"));
    });
    // It does not look for the delimiter in the line.
    encode(criterion, table, row("tokio-util LinesCodec"), |out| {
        let mut codec = LinesCodec::new();
        (0..frames).for_each(|_| codec.encode(black_box(&text), out).expect("a line"));
    });
    encode(criterion, table, row("limit: search and copy"), |out| {
        (0..frames).for_each(|_| {
            let frame = black_box(&frame);
            assert!(memchr::memchr(b'\n', frame).is_none());
            out.extend_from_slice(frame);
            out.put_u8(b'\n');
        });
    });
}

fn encoding_prefixed(criterion: &mut Criterion, table: &mut Table, size: usize) {
    let frame = Bytes::from(vec![b'x'; size]);
    let frames = READ / (size + 4);
    let row =
        |who| Row { kind: "encoding u32 length", size, who, frames, bytes: frames * (size + 4) };
    encode(criterion, table, row("ours"), |out| {
        let mut codec = LengthPrefixed::u32();
        (0..frames).for_each(|_| codec.encode(black_box(&frame), out).expect("a frame"));
    });
    encode(criterion, table, row("tokio-util LengthDelimitedCodec"), |out| {
        let mut codec = LengthDelimitedCodec::new();
        (0..frames).for_each(|_| codec.encode(black_box(&frame).clone(), out).expect("a frame"));
    });
    encode(criterion, table, row("limit: copy"), |out| {
        (0..frames).for_each(|_| {
            let frame = black_box(&frame);
            out.put_u32(u32::try_from(frame.len()).unwrap_or(0));
            out.extend_from_slice(frame);
        });
    });
}

/// A read full of empty frames.
fn empty(criterion: &mut Criterion, table: &mut Table) {
    let (lines, prefixes) = (vec![b'\n'; READ], vec![0; READ]);
    let row = |kind, who, frames| Row { kind, size: 0, who, frames, bytes: READ };
    decode(criterion, table, row("lines, LF", "ours", READ), &lines, Lines::lf);
    decode(
        criterion,
        table,
        row("lines, LF", "tokio-util LinesCodec", READ),
        &lines,
        LinesCodec::new,
    );
    decode(criterion, table, row("u32 length", "ours", READ / 4), &prefixes, LengthPrefixed::u32);
    let theirs = row("u32 length", "tokio-util LengthDelimitedCodec", READ / 4);
    decode(criterion, table, theirs, &prefixes, LengthDelimitedCodec::new);
}

/// One line of a megabyte that comes in small pieces, a decode after each; counted per piece.
fn dripped(criterion: &mut Criterion, table: &mut Table) {
    let line = [vec![b'x'; 1 << 20], vec![b'\n']].concat();
    for (kind, piece) in [("dripped by 1 byte", 1), ("dripped by 1 460 bytes", 1460)] {
        let row = |who| Row {
            kind,
            size: line.len(),
            who,
            frames: line.len().div_ceil(piece),
            bytes: line.len(),
        };
        drip(criterion, table, row("ours"), &line, piece, || Lines::lf().unlimited());
        drip(criterion, table, row("tokio-util LinesCodec"), &line, piece, LinesCodec::new);
    }
}

fn drip<D: Decoder<Error: std::fmt::Debug>>(
    criterion: &mut Criterion,
    table: &mut Table,
    row: Row<'_>,
    line: &[u8],
    piece: usize,
    codec: impl Fn() -> D,
) {
    table.measure(criterion, row, |bencher| {
        bencher.iter(|| {
            let (mut codec, mut buffer) = (codec(), BytesMut::new());
            for piece in line.chunks(piece) {
                buffer.extend_from_slice(piece);
                black_box(codec.decode(&mut buffer).expect("a line"));
            }
        });
    });
}
