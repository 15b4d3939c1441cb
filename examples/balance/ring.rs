//! Which server has a key: the ring of libketama. A server more or less moves the keys of one server's share only.

use md5::{Digest, Md5};

/// The points of a server are four for each of so many digests.
const DIGESTS: usize = 40;

/// The points of all servers, in their order; each with the number of its server.
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

    /// The server of the first point at the key's own or behind it.
    pub(crate) fn pick(&self, key: &[u8]) -> usize {
        let point = number(&Md5::digest(key)[..4]);
        let at = self.0.partition_point(|(other, _)| *other < point);
        self.0[at % self.0.len()].1
    }
}

/// As libketama: the lowest byte first.
fn number(four: &[u8]) -> u32 {
    four.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}
