//! The daemon's entry. Refuses to do anything itself.

fn main() -> std::process::ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == cc_host::image::unpack::SUBCOMMAND) {
        return cc_host::image::unpack::child_main(args);
    }
    std::process::ExitCode::FAILURE
}
