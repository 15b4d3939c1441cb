//! How the first bytes of an input choose a codec's settings and the reads.

/// The input of a codec's target: five bytes that choose, then the stream.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// The codec's own settings.
    pub options: u8,
    /// More of them.
    pub more: u8,
    /// Which limit.
    max: u8,
    /// The sizes of the reads, over and over; the last is not 0.
    sizes: [usize; 3],
    pub stream: &'a [u8],
}

/// How a stream is cut into reads.
#[derive(Clone, Copy, Debug)]
pub enum Cuts {
    Whole,
    Bytes,
    Sizes([usize; 3]),
}

/// Longer streams are not given byte by byte: it costs a call for each.
const BYTEWISE: usize = 24;

impl<'a> Input<'a> {
    /// `None` if the input is too short to choose anything.
    pub fn new(data: &'a [u8]) -> Option<Self> {
        let (&[options, more, max, first, last], stream) = data.split_first_chunk()?;
        let sizes = [usize::from(first & 0x0f), usize::from(first >> 4), usize::from(last) + 1];
        Some(Self { options, more, max, sizes, stream })
    }

    /// The limit: mostly a small one, so that it is reached.
    pub fn max(&self) -> usize {
        match self.max {
            0xff => usize::MAX,
            0xfe => 1 << 16,
            0xf0..=0xfd => 500 + usize::from(self.max & 0x0f) * 4,
            // Repeated, so that a random byte is a small limit more often than not.
            low => usize::from(low % 40),
        }
    }

    /// Whether the unread bytes move to another buffer before each read, as they may in a server.
    pub fn moves(&self) -> bool {
        self.more & 0x80 != 0
    }

    /// The sizes of the reads chosen.
    pub fn sizes(&self) -> [usize; 3] {
        self.sizes
    }

    /// Every way in which this input's stream is cut.
    pub fn cuts(&self) -> impl Iterator<Item = Cuts> + use<> {
        let bytes = (self.stream.len() <= BYTEWISE).then_some(Cuts::Bytes);
        [Cuts::Whole, Cuts::Sizes(self.sizes)].into_iter().chain(bytes)
    }

    /// The stream in pieces that serve as frames to encode: few, and of the sizes of the reads.
    pub fn pieces(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (stream, cuts) = (self.stream, Cuts::Sizes(self.sizes));
        let mut at = 0;
        (0..6).map_while(move |index| {
            let from = at;
            at = cuts.end(index, from, stream.len());
            (from < stream.len()).then(|| &stream[from..at])
        })
    }
}

impl Cuts {
    /// Where the read with this index ends that begins at `from`.
    pub fn end(self, index: usize, from: usize, len: usize) -> usize {
        match self {
            Self::Whole => len,
            Self::Bytes => len.min(from + 1),
            Self::Sizes(sizes) => len.min(from + sizes[index % 3]),
        }
    }

    /// Where the first read ends that ends after `at`.
    pub fn end_after(self, at: usize, len: usize) -> usize {
        let (mut index, mut end) = (0, 0);
        while end <= at && end < len {
            end = self.end(index, end, len);
            index += 1;
        }
        end
    }
}
