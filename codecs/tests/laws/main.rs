//! What holds for every codec, on streams nobody thought of.

mod corpus;
mod lent;
mod switching;
mod typed;

use bytes::Bytes;
use corpus::{long_frames, short_frames, streams};
use ropewalk_codecs::{CodecError, Fixed, LengthPrefixed, Lines, Netstring, RawBytes};
use ropewalk_laws::{Laws, Subject};
use tokio_util::codec::Encoder;

/// The laws on short frames, with a limit that they often break.
fn short<C>(make_codec: impl Fn() -> C + 'static) -> Laws<C>
where
    C: Subject<Item = Bytes, Error = CodecError> + Encoder<Bytes, Error = CodecError>,
{
    Laws::new(make_codec).streams(streams()).frames(short_frames())
}

/// The laws on long frames. Some have to be longer than the window, or law 5 would not be checked.
#[track_caller]
fn long<C>(window: usize, make_codec: impl Fn() -> C + 'static)
where
    C: Subject<Item = Bytes, Error = CodecError> + Encoder<Bytes, Error = CodecError>,
{
    let report = Laws::new(make_codec).window(window).frames(long_frames()).variants(8).check();
    assert!(report.overwritten > 500, "{report}");
}

/// For each codec: the most it holds, and how many bytes it may look at again.
macro_rules! laws {
    ($($name:ident: $codec:expr, max $max:literal, holds $holds:literal, window $window:literal;)*) => {
        $(mod $name {
            use super::*;

            #[test]
            fn the_laws_hold_for_short_frames_and_a_low_limit() {
                let expression = concat!(stringify!($codec), ".max(", $max, ")");
                short(|| $codec.max($max)).named(expression).limit($holds).window($window).check();
            }

            #[test]
            fn the_laws_hold_for_long_frames() {
                long($window, || $codec.max(700));
            }
        })*
    };
}

laws! {
    crlf: Lines::crlf(), max 6, holds 7, window 1;
    lf: Lines::lf(), max 6, holds 6, window 1;
    any: Lines::any(), max 6, holds 7, window 1;
    crlf_skipping: Lines::crlf().skip_too_long(), max 5, holds 6, window 1;
    lf_skipping: Lines::lf().skip_too_long(), max 5, holds 5, window 1;
    any_skipping: Lines::any().skip_too_long(), max 5, holds 6, window 1;
    one_byte_delimiter: Lines::delimited("-"), max 6, holds 6, window 1;
    overlapping_delimiter: Lines::delimited("-=-"), max 6, holds 8, window 2;
    repeating_delimiter: Lines::delimited("aa").skip_too_long(), max 5, holds 6, window 1;
    delimiter_of_one_byte_thrice: Lines::delimited("\n\n\n").skip_too_long(), max 5, holds 7, window 2;
    netstring: Netstring::new(), max 12, holds 15, window 1;
    u8: LengthPrefixed::u8(), max 6, holds 6, window 1;
    u8_adjusted: LengthPrefixed::u8().adjust(2), max 6, holds 6, window 1;
    u16: LengthPrefixed::u16(), max 6, holds 7, window 2;
    u16_little_inclusive: LengthPrefixed::u16().little_endian().inclusive(), max 6, holds 7, window 2;
    u24: LengthPrefixed::u24(), max 6, holds 8, window 3;
    u24_little_header: LengthPrefixed::u24().little_endian().header(2), max 8, holds 10, window 5;
    u32: LengthPrefixed::u32(), max 6, holds 9, window 4;
    u32_inclusive_header: LengthPrefixed::u32().inclusive().header(1), max 6, holds 9, window 5;
    u32_header_counted: LengthPrefixed::u32().header(4).adjust(-4), max 8, holds 11, window 8;
    u32_adjusted: LengthPrefixed::u32().little_endian().adjust(-2), max 6, holds 9, window 4;
    u64: LengthPrefixed::u64(), max 6, holds 13, window 8;
    u64_little_inclusive: LengthPrefixed::u64().little_endian().inclusive(), max 6, holds 13, window 8;
    varint: LengthPrefixed::varint(), max 200, holds 209, window 10;
    varint_adjusted: LengthPrefixed::varint().adjust(1), max 7, holds 16, window 10;
    varint_header: LengthPrefixed::varint().header(3), max 9, holds 18, window 13;
}

#[test]
fn the_laws_hold_for_a_limit_of_nothing() {
    short(|| Lines::crlf().max(0)).limit(1).check();
    short(|| Lines::crlf().max(0).skip_too_long()).limit(1).check();
    short(|| Lines::delimited("-=-").max(0).skip_too_long()).limit(2).check();
    short(|| Netstring::new().max(0)).limit(2).check();
    short(|| LengthPrefixed::u16().max(0)).limit(1).check();
    short(|| LengthPrefixed::varint().max(0)).limit(9).check();
}

#[test]
fn the_laws_hold_without_a_limit() {
    long(1, || Lines::crlf().unlimited());
    long(2, || Lines::delimited("-=-").unlimited());
    long(1, || Netstring::new().unlimited());
    long(8, || LengthPrefixed::u64().unlimited());
    long(10, || LengthPrefixed::varint().unlimited());
}

#[test]
fn the_laws_hold_for_lines_that_end_with_the_stream() {
    short(|| Lines::crlf().max(6).final_line()).limit(7).final_frame().check();
    short(|| Lines::any().max(6).final_line().skip_too_long()).limit(7).final_frame().check();
    short(|| Lines::any().max(6).final_line()).limit(7).final_frame().check();
    short(|| Lines::any().max(0).final_line()).limit(1).final_frame().check();
    short(|| Lines::delimited("-=-").max(6).final_line()).limit(8).final_frame().check();
}

#[test]
fn the_laws_hold_for_frames_of_one_size() {
    short(|| Fixed::new(5)).limit(4).check();
    short(|| Fixed::new(1)).limit(0).check();
    let report =
        short(|| Fixed::new(50)).window(1).frames([Bytes::from([b'x'; 50].as_slice())]).check();
    assert!(report.overwritten > 100, "{report}");
}

#[test]
fn the_laws_hold_for_raw_bytes_however_they_are_cut() {
    let join = |all: &mut Bytes, next: Bytes| {
        *all = [&all[..], &next[..]].concat().into();
        None
    };
    short(|| RawBytes).merge(join).limit(0).check();
}
