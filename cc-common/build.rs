//! Compiles the gRPC contract with protox, so that nobody has to install protoc. Without the feature `api` there is
//! nothing to compile, and nothing to compile it with.

#[cfg(feature = "api")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["cc/v1/cc.proto"], ["proto"])?;
    tonic_prost_build::configure().compile_fds(files)?;
    Ok(())
}

#[cfg(not(feature = "api"))]
fn main() {
    println!("cargo:rerun-if-changed=build.rs");
}
