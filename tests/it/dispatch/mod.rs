//! The leaf `framed`, and the wire below it.

mod begun_frames;
mod busy_calls;
mod calls;
mod failed_answers;
mod foreign_codecs;
mod large_frames;
mod pending_calls;
mod slow_readers;
mod turns;
mod waiting_calls;
