//! Frames that are lent have to be those that are owned.

use ropewalk_codecs::Framing;
use ropewalk_laws::Lent;

use super::drive::{Drive, Event, Expect, same_bytes};
use super::input::{Cuts, Input};

/// Decodes an input's stream once more, in its reads.
pub fn lent<C: Framing + Clone>(codec: &C, input: &Input<'_>, events: &[Event], holds: usize) {
    let mut expect = Expect::new(input.stream, events, same_bytes);
    let drive = Drive { cuts: Cuts::Sizes(input.sizes()), moves: input.moves(), holds };
    drive.run(&mut Lent(codec.clone()), input.stream, &mut expect);
    expect.end();
}
