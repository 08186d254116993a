//! See `synod_fuzz::block_index`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    synod_fuzz::block_index(data);
});
