//! Length prefixes: widths, orders, varints, adjustments, limits.

use bytes::{Bytes, BytesMut};
use ropewalk_codecs::{LengthPrefixed, own_limit};
use tokio_util::codec::Decoder;

use crate::support::{encoded, gives, refuses};

fn fixed() -> [(LengthPrefixed, usize); 5] {
    [
        (LengthPrefixed::u8(), 1),
        (LengthPrefixed::u16(), 2),
        (LengthPrefixed::u24(), 3),
        (LengthPrefixed::u32(), 4),
        (LengthPrefixed::u64(), 8),
    ]
}

/// `number` in `width` bytes, the highest first, and then `rest`.
fn wire(number: u64, width: usize, rest: &str) -> Vec<u8> {
    [&number.to_be_bytes()[8 - width..], rest.as_bytes()].concat()
}

#[test]
fn every_width_is_big_endian_unless_asked_otherwise() {
    for (codec, width) in fixed() {
        let big = wire(4, width, "ubar");
        assert_eq!(encoded(&codec, "ubar").unwrap(), big);
        gives(&codec, &big, ["ubar"]);
        gives(&codec.clone().little_endian().big_endian(), &big, ["ubar"]);
        let little = codec.little_endian();
        let mut reversed = big;
        reversed[..width].reverse();
        assert_eq!(encoded(&little, "ubar").unwrap(), reversed);
        gives(&little, &reversed, ["ubar"]);
    }
}

#[test]
fn all_bytes_of_a_length_count() {
    let body = "x".repeat(0x0102);
    gives(&LengthPrefixed::u16(), wire(0x0102, 2, &body), [&*body]);
    let codec = LengthPrefixed::u24().unlimited();
    let frame = vec![7; 0x01_02_03];
    assert_eq!(&encoded(&codec, &frame).unwrap()[..4], [1, 2, 3, 7]);
    let mut codec = codec.little_endian();
    let mut stream = BytesMut::from(&encoded(&codec, &frame).unwrap()[..]);
    assert_eq!(&stream[..4], [3, 2, 1, 7]);
    assert_eq!(codec.decode(&mut stream).unwrap().unwrap(), frame);
}

#[test]
fn length_zero_is_an_empty_frame() {
    for (codec, width) in fixed() {
        gives(&codec, [wire(0, width, ""), wire(0, width, "")].concat(), ["", ""]);
        assert_eq!(encoded(&codec, "").unwrap(), wire(0, width, ""));
    }
    gives(&LengthPrefixed::varint(), "\0\0", ["", ""]);
}

#[test]
fn a_length_over_the_limit_is_refused_on_the_prefix_alone() {
    for (codec, width) in fixed() {
        let ten = codec.max(10);
        gives(&ten, wire(10, width, "0123456789"), ["0123456789"]);
        gives(&ten, wire(11, width, ""), ["!TooLong { max: 10 }@0"]);
        gives(&ten, wire(11, width, "xxxxxxxxxxx"), ["!TooLong { max: 10 }@0"]);
        let second = [wire(1, width, "a"), wire(11, width, "")].concat();
        gives(&ten, &second, ["a", &format!("!TooLong {{ max: 10 }}@{}", width + 1)]);
        refuses(&ten, "01234567890", "TooLong { max: 10 }");
    }
    gives(&LengthPrefixed::u32(), wire(65_537, 4, ""), ["!TooLong { max: 65536 }@0"]);
}

#[test]
fn no_length_wraps() {
    let lengths = [u64::MAX, u64::MAX - 1, 1 << 63, (1 << 63) - 1, 1 << 62];
    for adjust in [0, 1, 8, -1, i64::MAX / 4, -(i64::MAX / 4)] {
        let free = LengthPrefixed::u64().unlimited().header(3).adjust(adjust);
        for codec in [free.clone(), free.inclusive()] {
            for length in lengths {
                let mut buffer = BytesMut::from("hea");
                buffer.extend_from_slice(&length.to_be_bytes());
                let capacity = buffer.capacity();
                match codec.clone().decode(&mut buffer) {
                    Ok(frame) => assert_eq!(frame, None),
                    Err(error) => assert_eq!(error.offset(), Some(3)),
                }
                assert!(buffer.capacity() <= capacity);
            }
        }
    }
}

#[test]
fn a_varint_has_seven_bits_a_byte_and_its_shortest_form() {
    let codec = LengthPrefixed::varint().max(20_000);
    for (size, prefix) in [
        (0, &b"\0"[..]),
        (1, b"\x01"),
        (127, b"\x7f"),
        (128, b"\x80\x01"),
        (300, b"\xac\x02"),
        (16_383, b"\xff\x7f"),
        (16_384, b"\x80\x80\x01"),
    ] {
        let frame = "v".repeat(size);
        let stream = [prefix, frame.as_bytes()].concat();
        assert_eq!(encoded(&codec, &frame).unwrap(), stream);
        gives(&codec, &stream, [&*frame]);
    }
    gives(&codec, b"\x80\0", ["!BadLength@1"]);
    gives(&codec, b"\x81\x80\0", ["!BadLength@2"]);
    gives(&codec, b"\0\x81\0", ["", "!BadLength@2"]);
    gives(&codec, b"\x80", ["!Truncated { have: 1 }@1"]);
}

#[test]
fn a_varint_has_at_most_ten_bytes_and_64_bits() {
    let codec = LengthPrefixed::varint();
    let nine = [0xff; 9];
    let ten = |last: u8| [&nine[..], &[last]].concat();
    gives(&codec, ten(0x01), ["!TooLong { max: 65536 }@0"]);
    gives(&codec, ten(0x02), ["!BadLength@9"]);
    gives(&codec, ten(0x81), ["!BadLength@9"]);
    gives(&codec, ten(0x00), ["!BadLength@9"]);
    gives(&codec, [0x80; 12], ["!BadLength@9"]);
    gives(&codec, nine, ["!Truncated { have: 9 }@9"]);
}

#[test]
fn an_inclusive_length_counts_itself() {
    for (codec, width) in fixed() {
        let codec = codec.inclusive();
        let own = width as u64;
        gives(&codec, wire(own + 3, width, "abc"), ["abc"]);
        gives(&codec, wire(own, width, ""), [""]);
        gives(&codec, wire(own - 1, width, "abc"), ["!BadLength@0"]);
        assert_eq!(encoded(&codec, "abc").unwrap(), wire(own + 3, width, "abc"));
    }
    // 255 less the one byte that it counts.
    refuses(&LengthPrefixed::u8().inclusive(), [0; 255], "TooLong { max: 254 }");
    assert!(encoded(&LengthPrefixed::u8().inclusive(), [0; 254]).is_ok());
}

#[test]
fn a_header_before_the_length_belongs_to_the_frame() {
    let codec = LengthPrefixed::u16().header(3).max(6);
    gives(&codec, "abc\0\x03defghi\0\0", ["abcdef", "ghi"]);
    gives(&codec, "ab", ["!Truncated { have: 2 }@2"]);
    gives(&codec, "abc\0", ["!Truncated { have: 4 }@4"]);
    gives(&codec, "abc\0\x03de", ["!Truncated { have: 7 }@7"]);
    // The limit is the frame's, its header counted; the error is where the length is.
    gives(&codec, "abc\0\x04", ["!TooLong { max: 6 }@3"]);
    assert_eq!(encoded(&codec, "abcdef").unwrap(), "abc\0\x03def");
    assert_eq!(encoded(&codec, "abc").unwrap(), "abc\0\0");
    refuses(&codec, "ab", "BadLength");
    refuses(&codec, "abcdefg", "TooLong { max: 6 }");
    gives(&LengthPrefixed::varint().header(1), b"a\x80\0", ["!BadLength@2"]);
}

#[test]
fn a_long_frame_with_a_header_is_whole() {
    let frame: Bytes = (0..2000_u32).flat_map(u32::to_be_bytes).collect();
    for header in [1, 2, 5, 600, 8000] {
        let codec = LengthPrefixed::u32().header(header);
        let mut stream = BytesMut::from(&encoded(&codec, &frame).unwrap()[..]);
        assert_eq!(codec.clone().decode(&mut stream).unwrap().unwrap(), frame, "{header}");
    }
}

#[test]
fn an_adjustment_changes_how_much_follows() {
    let more = LengthPrefixed::u8().adjust(2);
    gives(&more, "\x01abc\0de", ["abc", "de"]);
    assert_eq!(encoded(&more, "abc").unwrap(), "\x01abc");
    refuses(&more, "a", "BadLength");
    assert!(encoded(&more, [0; 257]).is_ok());
    refuses(&more, [0; 258], "TooLong { max: 257 }");
    let fewer = LengthPrefixed::u8().adjust(-2);
    gives(&fewer, "\x03a\x02\x01", ["a", "", "!BadLength@3"]);
    assert_eq!(encoded(&fewer, "a").unwrap(), "\x03a");
    // The limit is compared after the adjustment.
    gives(
        &LengthPrefixed::u8().max(4).adjust(-2),
        "\x06abcd\x07",
        ["abcd", "!TooLong { max: 4 }@5"],
    );
    gives(
        &LengthPrefixed::u8().max(4).adjust(2),
        "\x02abcd\x03",
        ["abcd", "!TooLong { max: 4 }@5"],
    );
    // A length that counts itself and its header.
    let all = LengthPrefixed::u16().header(2).inclusive().adjust(-2);
    gives(&all, "ab\0\x06cd", ["abcd"]);
    assert_eq!(encoded(&all, "abcd").unwrap(), "ab\0\x06cd");
}

#[test]
fn a_length_that_the_prefix_can_not_hold_is_not_encoded() {
    refuses(&LengthPrefixed::u8(), [0; 256], "TooLong { max: 255 }");
    refuses(&LengthPrefixed::u16(), vec![0; 65_536], "TooLong { max: 65535 }");
    assert!(encoded(&LengthPrefixed::u16(), vec![0; 65_535]).is_ok());
    assert!(encoded(&LengthPrefixed::u24(), vec![0; 65_536]).is_ok());
    // A header is not counted.
    let header = LengthPrefixed::u8().header(2);
    assert!(encoded(&header, [0; 257]).is_ok());
    refuses(&header, [0; 258], "TooLong { max: 257 }");
}

#[test]
fn a_length_that_overflows_a_number_is_too_long_and_not_negative() {
    let more = LengthPrefixed::u64().max(10).adjust(2);
    gives(&more, u64::MAX.to_be_bytes(), ["!TooLong { max: 10 }@0"]);
}

/// Each of these panics when it is built.
#[test]
fn impossible_combinations_are_refused_when_the_codec_is_built() {
    let impossible: [fn() -> LengthPrefixed; 9] = [
        || LengthPrefixed::varint().inclusive(),
        || LengthPrefixed::varint().little_endian(),
        || LengthPrefixed::varint().big_endian(),
        || LengthPrefixed::u8().max(4).header(5),
        || LengthPrefixed::u8().header(5).max(4),
        || LengthPrefixed::u8().adjust(-256),
        || LengthPrefixed::u8().inclusive().adjust(-255),
        || LengthPrefixed::u8().max(4).adjust(5),
        || LengthPrefixed::u8().header(2).max(4).adjust(3),
    ];
    for (index, build) in impossible.into_iter().enumerate() {
        assert!(std::panic::catch_unwind(build).is_err(), "{index}");
    }
    // Each of these is at the edge.
    gives(&LengthPrefixed::u8().adjust(-255), b"\xff", [""]);
    gives(&LengthPrefixed::u8().max(4).header(4), "abcd\0", ["abcd"]);
    gives(&LengthPrefixed::u8().header(2).max(4).adjust(2), "ab\0cd", ["abcd"]);
}

/// IN1 to IN8 for every width they name.
#[test]
fn the_vectors_of_twisted() {
    let int32 = LengthPrefixed::u32().max(50);
    let int16 = LengthPrefixed::u16().max(50);
    let int8 = LengthPrefixed::u8().max(50);
    let over = "!TooLong { max: 50 }@0";
    gives(&int32, "\x10\0\0\0aaaaaa", [over]); // IN1
    gives(&int16, "\x10\0aaaaaa", [over]);
    gives(&int8, "\0\0aaaaaa", ["", "", "!TooLong { max: 50 }@2"]);
    for (codec, width) in [(&int8, 1), (&int16, 2), (&int32, 4)] {
        let b16 = "b".repeat(16);
        gives(codec, [wire(1, width, "a"), wire(16, width, &b16)].concat(), ["a", &b16]); // IN2
        assert_eq!(encoded(codec, &b16).unwrap(), wire(16, width, &b16)); // IN4
        let ten = codec.clone().max(10);
        gives(&ten, wire(11, width, ""), ["!TooLong { max: 10 }@0"]); // IN5
        gives(&ten, wire(11, width, "xxxxxxxxxxx"), ["!TooLong { max: 10 }@0"]); // IN6
        gives(codec, wire(4, width, "ubar"), ["ubar"]); // IN7
        assert_eq!(encoded(codec, "foo").unwrap(), wire(3, width, "foo"));
        let both = [wire(5, width, "aaaaa"), wire(5, width, "bbbb")].concat();
        gives(
            codec,
            &both,
            ["aaaaa", &format!("!Truncated {{ have: {0} }}@{1}", width + 4, 2 * width + 9)],
        ); // IN9
    }
    gives(&int32, "\0\0\0", ["!Truncated { have: 3 }@3"]); // IN3
    gives(&int16, "\0", ["!Truncated { have: 1 }@1"]);
    gives(&int8, "\x08dzadz", ["!Truncated { have: 6 }@6"]);
    assert!(encoded(&LengthPrefixed::u8().unlimited(), [0; 257]).is_err()); // IN8
    assert!(encoded(&LengthPrefixed::u16().unlimited(), vec![0; 65_537]).is_err());
}

#[test]
fn the_rest_of_a_frame_is_within_its_own_limit_and_says_how_long_the_frame_is() {
    for (mut codec, bytes, whole) in [
        (LengthPrefixed::u32(), &b"\0\0\0\x0Aabc"[..], 14),
        (LengthPrefixed::u16(), b"\0\x05a", 7),
        // The length has not come.
        (LengthPrefixed::u32(), b"\0\0", 0),
    ] {
        let mut buf = BytesMut::from(bytes);
        assert!(codec.decode(&mut buf).unwrap().is_none());
        assert_eq!(own_limit::holds_for(&buf), Some(whole));
    }
}
