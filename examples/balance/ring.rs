//! The server of each key, by the ring of libketama: adding or removing a server moves only its share of the keys.

use md5::{Digest, Md5};

/// A server has four points for each of this many digests.
const DIGESTS: usize = 40;

/// The points of all servers in order, each with the number of its server.
#[derive(Debug)]
pub(crate) struct Ring(Vec<(u32, usize)>);

impl Ring {
    /// For servers with these names, at least one.
    pub(crate) fn new<N: AsRef<str>>(names: &[N]) -> Self {
        let mut points = Vec::new();
        for (server, name) in names.iter().enumerate() {
            for i in 0..DIGESTS {
                let digest = Md5::digest(format!("{}-{i}", name.as_ref()));
                let all = digest.as_slice().chunks_exact(4);
                points.extend(all.map(|four| (number(four), server)));
            }
        }
        points.sort_unstable();
        Self(points)
    }

    /// The server of the first point at or after the key's own.
    pub(crate) fn pick(&self, key: &[u8]) -> usize {
        let point = number(&Md5::digest(key)[..4]);
        let at = self.0.partition_point(|(other, _)| *other < point);
        self.0[at % self.0.len()].1
    }
}

/// As in libketama, the lowest byte first.
fn number(four: &[u8]) -> u32 {
    four.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}
