#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| drop(ropewalk_fuzz::protocols::scgi(data)));
