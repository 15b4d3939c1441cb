//! Codecs against tokio-util's of the same kind, and against the least that finding the frames costs.
//!
//! `cargo bench --bench codecs` measures and ends with a table of nanoseconds a frame, GB/s, and ratios. The figures of one
//! run compare with each other and with no other run's.

mod support;

use std::hint::black_box;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use criterion::{BatchSize, Criterion};
use ropewalk::{Bytes, LengthPrefixed, Lines, Netstring};
use support::{Row, Table};
use tokio_util::codec::{AnyDelimiterCodec, Decoder, Encoder, LengthDelimitedCodec, LinesCodec};

/// What one read brings.
const READ: usize = 64 * 1024;
const SIZES: [usize; 4] = [16, 64, 512, 8192];

fn main() {
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
        encoding(&mut criterion, &mut table, size);
    }
    empty(&mut criterion, &mut table);
    dripped(&mut criterion, &mut table);
    criterion.final_summary();
    table.print();
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

/// Measures how long it takes to decode the whole stream.
fn decode<D>(criterion: &mut Criterion, table: &mut Table, row: Row<'_>, stream: &[u8], codec: impl Fn() -> D)
where
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
            BatchSize::SmallInput,
        );
    });
}

/// Measures a plain walk over the bytes: the limit.
fn walk(criterion: &mut Criterion, table: &mut Table, row: Row<'_>, stream: &[u8], walk: impl Fn(&[u8]) -> usize) {
    table.measure(criterion, row, |bencher| bencher.iter(|| walk(black_box(stream))));
}

fn lines(criterion: &mut Criterion, table: &mut Table, size: usize, end: &'static str, ours: &Lines) {
    let (stream, frames) = stream(size, |stream, content| {
        stream.extend_from_slice(content);
        stream.extend_from_slice(end.as_bytes());
    });
    let kind = if end == "\n" { "lines, LF" } else { "lines, CR LF" };
    let row = |who| Row { kind, size, who, frames, bytes: stream.len() };
    decode(criterion, table, row("ours"), &stream, || ours.clone());
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
    decode(criterion, table, row("tokio-util LengthDelimitedCodec"), &stream, LengthDelimitedCodec::new);
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
    decode(
        criterion,
        table,
        Row { kind: "netstrings", size, who: "ours", frames, bytes: stream.len() },
        &stream,
        Netstring::new,
    );
}

/// Encoding a read's worth of frames, against copying them.
fn encoding(criterion: &mut Criterion, table: &mut Table, size: usize) {
    let frame = Bytes::from(vec![b'x'; size]);
    let frames = READ / (size + 1);
    let row = |who| Row { kind: "encoding lines", size, who, frames, bytes: frames * (size + 1) };
    let mut out = BytesMut::with_capacity(2 * READ);
    table.measure(criterion, row("ours"), |bencher| {
        bencher.iter(|| {
            out.clear();
            let mut codec = Lines::lf();
            (0..frames).for_each(|_| codec.encode(black_box(&frame), &mut out).expect("a line"));
            black_box(&out);
        });
    });
    let text = String::from_utf8_lossy(&frame).into_owned();
    table.measure(criterion, row("tokio-util LinesCodec"), |bencher| {
        bencher.iter(|| {
            out.clear();
            let mut codec = LinesCodec::new();
            (0..frames).for_each(|_| codec.encode(black_box(&text), &mut out).expect("a line"));
            black_box(&out);
        });
    });
    table.measure(criterion, row("limit: copy"), |bencher| {
        bencher.iter(|| {
            out.clear();
            (0..frames).for_each(|_| {
                out.extend_from_slice(black_box(&frame));
                out.put_u8(b'\n');
            });
            black_box(&out);
        });
    });
}

/// A read full of empty frames.
fn empty(criterion: &mut Criterion, table: &mut Table) {
    let (lines, prefixes) = (vec![b'\n'; READ], vec![0; READ]);
    let row = |kind, who, frames| Row { kind, size: 0, who, frames, bytes: READ };
    decode(criterion, table, row("lines, LF", "ours", READ), &lines, Lines::lf);
    decode(criterion, table, row("lines, LF", "tokio-util LinesCodec", READ), &lines, LinesCodec::new);
    decode(criterion, table, row("u32 length", "ours", READ / 4), &prefixes, LengthPrefixed::u32);
    let theirs = row("u32 length", "tokio-util LengthDelimitedCodec", READ / 4);
    decode(criterion, table, theirs, &prefixes, LengthDelimitedCodec::new);
}

/// One line of a megabyte that comes in small pieces, a decode after each; counted per piece.
fn dripped(criterion: &mut Criterion, table: &mut Table) {
    let line = [vec![b'x'; 1 << 20], vec![b'\n']].concat();
    for (kind, piece) in [("dripped by 1 byte", 1), ("dripped by 1 460 bytes", 1460)] {
        let row = |who| Row { kind, size: line.len(), who, frames: line.len().div_ceil(piece), bytes: line.len() };
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
