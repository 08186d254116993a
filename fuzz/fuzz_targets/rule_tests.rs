//! See `synod_fuzz::rule_tests`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    synod_fuzz::rule_tests(data);
});
