#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| daemon::home::fuzzing::pack_index(bytes));
