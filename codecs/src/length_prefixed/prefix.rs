//! The length as it is encoded on the wire.

use bytes::{BufMut, BytesMut};

/// How a length is written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Prefix {
    Fixed {
        /// 1 to 8.
        width: usize,
        little: bool,
    },
    Varint,
}

/// 64 bits in groups of seven need ten bytes.
const LONGEST_VARINT: usize = 10;

impl Prefix {
    /// The largest number it can hold.
    #[inline]
    pub(super) fn largest(self) -> u64 {
        match self {
            Self::Fixed { width, .. } => u64::MAX >> (64 - 8 * width),
            Self::Varint => u64::MAX,
        }
    }

    /// The most bytes it has.
    #[inline]
    pub(super) fn most_bytes(self) -> usize {
        match self {
            Self::Fixed { width, .. } => width,
            Self::Varint => LONGEST_VARINT,
        }
    }

    /// The number at the start of `bytes` and its size in bytes, or `None` if it is incomplete. The
    /// error is the index of the first invalid byte.
    #[inline(always)]
    pub(super) fn read(self, bytes: &[u8]) -> Result<Option<(u64, usize)>, usize> {
        let Self::Fixed { width, little } = self else {
            return read_varint(bytes);
        };
        if let Some(eight) = bytes.first_chunk::<8>() {
            // The same code for all widths: read eight bytes, and shift out those beyond the width.
            let others = 64 - 8 * width;
            let number = if little {
                u64::from_le_bytes(*eight) << others
            } else {
                u64::from_be_bytes(*eight)
            };
            return Ok(Some((number >> others, width)));
        }
        // Near the end of the buffer there may be fewer than eight bytes.
        let Some(bytes) = bytes.get(..width) else {
            return Ok(None);
        };
        Ok(Some((read_short(bytes, little), width)))
    }

    /// Appends a number that is at most [`largest`](Self::largest).
    #[inline]
    pub(super) fn write(self, number: u64, dst: &mut BytesMut) {
        match self {
            Self::Fixed { width, little: true } => {
                dst.extend_from_slice(&number.to_le_bytes()[..width]);
            }
            Self::Fixed { width, little: false } => {
                dst.extend_from_slice(&number.to_be_bytes()[8 - width..]);
            }
            Self::Varint => write_varint(number, dst),
        }
    }
}

#[inline(never)]
fn read_short(bytes: &[u8], little: bool) -> u64 {
    let append = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
    if little { bytes.iter().rev().fold(0, append) } else { bytes.iter().fold(0, append) }
}

fn read_varint(bytes: &[u8]) -> Result<Option<(u64, usize)>, usize> {
    let mut number = 0;
    for (index, &byte) in bytes.iter().take(LONGEST_VARINT).enumerate() {
        // The tenth byte is the last, and holds only the 64th bit.
        if index == LONGEST_VARINT - 1 && byte > 1 {
            return Err(index);
        }
        number |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            // A last group of 0 adds nothing: the same number has a shorter form.
            return if byte == 0 && index > 0 { Err(index) } else { Ok(Some((number, index + 1))) };
        }
    }
    Ok(None)
}

fn write_varint(mut number: u64, dst: &mut BytesMut) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            return dst.put_u8(low & 0x7f);
        }
        dst.put_u8(low | 0x80);
    }
}
