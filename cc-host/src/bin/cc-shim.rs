//! `cc-shim DIR`: runs the container that DIR/spec.json describes, or waits for it in the place that DIR/place.json describes. Refuses
//! everything else.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let (Some(dir), None) = (args.next(), args.next()) else {
        eprintln!("usage: cc-shim DIR (started by cc-host, with a specification or a place in DIR)");
        return ExitCode::from(2);
    };
    match cc_host::shim::run(Path::new(&dir)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                text.push_str(&format!(": {cause}"));
                source = cause.source();
            }
            eprintln!("cc-shim: {text}");
            ExitCode::FAILURE
        }
    }
}
