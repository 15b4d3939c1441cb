//! The leaf `session`.

mod answers;
mod cut_midway;
mod cut_short;
mod ends;
mod frames;
mod goodbye;
mod raw;
mod until;
