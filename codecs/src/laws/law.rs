//! The seven laws.
use std::fmt;

/// A law of codecs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Law {
    /// 1
    AnySegmentation,
    /// 2
    RoundTrip,
    /// 3
    PrefixSafety,
    /// 4
    BoundedMemory,
    /// 5
    LinearWork,
    /// 6
    PlacedErrors,
    /// 7
    NoHalfFrames,
}

impl Law {
    /// Its number, from 1 to 7.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::AnySegmentation => 1,
            Self::RoundTrip => 2,
            Self::PrefixSafety => 3,
            Self::BoundedMemory => 4,
            Self::LinearWork => 5,
            Self::PlacedErrors => 6,
            Self::NoHalfFrames => 7,
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::AnySegmentation => "any segmentation",
            Self::RoundTrip => "round trip",
            Self::PrefixSafety => "prefix safety",
            Self::BoundedMemory => "bounded memory",
            Self::LinearWork => "linear work",
            Self::PlacedErrors => "placed errors",
            Self::NoHalfFrames => "no half frames",
        }
    }
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "law {}, {},", self.number(), self.title())
    }
}
