//! See `synod_fuzz::command`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    synod_fuzz::command(data);
});
