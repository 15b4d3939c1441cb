//! The ids by which answers find their queries.

use ropewalk::Bytes;
use ropewalk::client::Tag;

/// The number that a query and its answer begin with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Id(u16);

impl Tag<Vec<u8>, Bytes> for Id {
    type Id = u16;

    fn assign(&mut self, query: &mut Vec<u8>, taken: &dyn Fn(&u16) -> bool) -> u16 {
        while taken(&self.0) {
            self.0 = self.0.wrapping_add(1);
        }
        let id = self.0;
        self.0 = self.0.wrapping_add(1);
        query[..2].copy_from_slice(&id.to_be_bytes());
        id
    }

    fn finish(&mut self, answer: &Bytes) -> Option<u16> {
        answer.first_chunk().map(|id| u16::from_be_bytes(*id))
    }
}
