//! The leaf `session`.

mod answers;
mod broken;
mod cut_midway;
mod cut_short;
mod ends;
mod frames;
mod goodbye;
mod raw;
mod until;
