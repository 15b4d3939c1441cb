//! A seed stands for the same checks, to the last byte: a kit that quietly checks less would find
//! less.

use std::cell::Cell;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use ropewalk_codecs::{CodecError, Lines, Netstring};
use ropewalk_laws::Laws;
use tokio_util::codec::{Decoder, Encoder};

/// Lines that keep a fingerprint of all that they are shown.
struct Watched {
    lines: Lines,
    shown: Rc<Cell<u64>>,
}

impl Watched {
    fn see(&self, src: &BytesMut) {
        // FNV-1a.
        let step = |hash: u64, word: u64| (hash ^ word).wrapping_mul(0x0100_0000_01b3);
        let words = src.iter().map(|&byte| u64::from(byte)).chain([src.len() as u64]);
        self.shown.set(words.fold(self.shown.get(), step));
    }
}

impl Decoder for Watched {
    type Item = Bytes;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        self.see(src);
        self.lines.decode(src)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        self.see(src);
        self.lines.decode_eof(src)
    }
}

impl Encoder<Bytes> for Watched {
    type Error = CodecError;

    fn encode(&mut self, line: Bytes, dst: &mut BytesMut) -> Result<(), CodecError> {
        self.lines.encode(line, dst)
    }
}

#[test]
fn a_decoder_is_shown_the_same_bytes_each_time() {
    let shown = Rc::new(Cell::new(0xcbf2_9ce4_8422_2325));
    let seen = Rc::clone(&shown);
    let lines =
        move || Watched { lines: Lines::lf().max(2000).skip_too_long(), shown: Rc::clone(&seen) };
    let laws = Laws::new(lines)
        .streams([&b"one\n\ntwo\n"[..], b"a line of some length, which comes in pieces\nx\n"])
        .frames([Bytes::from("one"), Bytes::from("two")])
        .limit(2001)
        .splits(3)
        .variants(5)
        .seed(7);
    let report = laws.try_check().expect("lines keep the laws");
    assert_eq!(report.to_string(), "8 streams in 757 runs with seed 7, 315 bytes overwritten");
    assert_eq!(shown.get(), 0xaafa_e4b2_64e6_bae5);
}

#[test]
fn a_report_counts_all_that_was_done() {
    let lines = Laws::new(|| Lines::lf().max(40).skip_too_long())
        .streams([&b"one\n\ntwo\n"[..], b"a line of some length, which comes in pieces\nx\n"])
        .frames([Bytes::from("one"), Bytes::from("two")])
        .limit(41)
        .seed(7);
    let words = lines.try_check().expect("lines keep the laws").to_string();
    assert_eq!(words, "67 streams in 2538 runs with seed 7, 250 bytes overwritten");
    let few = Laws::new(Netstring::new)
        .streams([b"20:twenty bytes in all..,"])
        .splits(1)
        .variants(1)
        .window(4)
        .seed(1);
    let words = few.try_check().expect("netstrings keep the laws").to_string();
    assert_eq!(words, "2 streams in 471 runs with seed 1, 298 bytes overwritten");
}
