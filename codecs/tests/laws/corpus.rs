//! Streams and frames nobody thought of, the same each time.

use bytes::Bytes;

/// Bytes that mean something to these codecs.
const TELLING: &[u8] = b"\r\n\r\n\r\n:,0123a-=\x00\x01\x02\x03\x80\x81\xff";

/// A linear congruence, of which the upper bits are random enough.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % end
    }

    /// Up to `most` bytes, one in eight of them any.
    pub(crate) fn bytes(&mut self, most: usize) -> Vec<u8> {
        let length = self.below(most + 1);
        let byte = |random: &mut Self| match random.below(8) {
            0 => u8::try_from(random.below(256)).expect("a byte"),
            _ => TELLING[random.below(TELLING.len())],
        };
        (0..length).map(|_| byte(self)).collect()
    }
}

/// Streams of telling bytes.
pub(crate) fn streams() -> Vec<Vec<u8>> {
    let mut random = Random::new(1);
    (0..40).map(|_| random.bytes(60)).collect()
}

/// A plain frame, and short ones of telling bytes of which some are refused.
pub(crate) fn short_frames() -> Vec<Bytes> {
    let mut random = Random::new(2);
    let telling = std::iter::repeat_with(|| random.bytes(10).into());
    [Bytes::from("plain")].into_iter().chain(telling.take(60)).collect()
}

/// Frames of letters, the longest so long that it takes another way out of the buffer than a short
/// one.
pub(crate) fn long_frames() -> Vec<Bytes> {
    [60, 0, 300, 1, 700]
        .map(|length| b"bcdefghij".iter().copied().cycle().take(length).collect())
        .to_vec()
}
