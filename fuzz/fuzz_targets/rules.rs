//! See `synod_fuzz::rules`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    synod_fuzz::rules(data);
});
