//! The generated half of the API is what its contract says. With `CC_GENERATE` set, it is made so: `cargo xtask proto`.

use std::path::Path;

const FILE: &str = "cc.v1.rs";

#[test]
fn the_generated_code_is_that_of_the_contract() {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let kept = crate_dir.join("src/api/generated").join(FILE);
    let fresh = tempfile::tempdir().unwrap();
    let contract = protox::compile(["cc/v1/cc.proto"], [crate_dir.join("proto")]).unwrap();
    tonic_prost_build::configure().out_dir(fresh.path()).compile_fds(contract).unwrap();
    let fresh = std::fs::read_to_string(fresh.path().join(FILE)).unwrap();
    if std::env::var_os("CC_GENERATE").is_some() {
        std::fs::write(&kept, fresh).unwrap();
        return;
    }
    let kept = std::fs::read_to_string(kept).unwrap();
    assert!(kept == fresh, "src/api/generated/{FILE} is not what proto/ says: run `cargo xtask proto`");
}
