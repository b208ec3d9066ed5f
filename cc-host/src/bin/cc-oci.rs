//! `cc-oci`: the OCI runtime command line. Refuses everything but to hand its arguments to the room `oci`.

use std::process::ExitCode;

fn main() -> ExitCode {
    cc_host::oci::main()
}
