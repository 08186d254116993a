//! See `synod_fuzz::template`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    synod_fuzz::template(data);
});
