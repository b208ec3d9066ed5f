//! config.json of an OCI bundle.
#![cfg_attr(not(test), no_main)]

// A run of all programs' tests would be one without an end.
#[cfg(not(test))]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::oci_configs::run(bytes));
