//! Each codec, alone.

mod support;

mod custom;
mod fixed;
mod length_prefixed;
mod line_raw;
mod lines;
mod netstring;
mod raw_bytes;
mod typed;
