//! `cc exec`: another program in a container that runs, in front of us or left to itself. Refuses to start a container.

use cc_common::api::fault::Fault;
use cc_common::api::v1::run_output::Output;
use cc_common::api::v1::{ExecStart, RunInput, run_input::Input};
use clap::Args;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Context;
use super::foreground::{self, How, INPUTS_IN_FLIGHT, Signals, What};
use crate::error::Failure;
use crate::terminal;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cc exec -it web sh\n  cc exec web cat /etc/hosts\n  \
    cc exec -u nobody -e A=1 -w /tmp web env\n  echo hello | cc exec -i web tee /tmp/hello\n\n\
    Flags come before the container; all after its name is the command's.\n\n\
    Exit codes: 125 cc or the daemon failed, 126 the command cannot be executed,\n\
    127 it was not found, 128+n signal n ended it, else the command's own.")]
pub struct ExecArgs {
    /// Pass standard input on
    #[arg(short, long, conflicts_with = "detach")]
    interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Do not wait for it, and drop what it writes
    #[arg(short, long)]
    detach: bool,
    /// A name, uid, uid:gid or name:group of the container's (default: as the container was run)
    #[arg(short, long, value_name = "USER", default_value = "", hide_default_value = true)]
    user: String,
    /// KEY=VALUE, or KEY to pass on our own; more than once
    #[arg(short, long, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// The working directory, which must be there (default: the container's)
    #[arg(short = 'w', long, value_name = "DIR", default_value = "", hide_default_value = true)]
    dir: String,
    /// Keys that leave it, with -it; its terminal is hung up then
    #[arg(long, value_name = "KEYS", default_value = terminal::DETACH_KEYS)]
    detach_keys: String,
    /// A container, by name or id
    #[arg(value_name = "ID")]
    id: String,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub async fn run(context: &Context, args: ExecArgs) -> Result<i32, Failure> {
    if args.interactive {
        context.claim_stdin("-i")?;
    }
    let detach_keys = foreground::keys(&args.detach_keys)?;
    foreground::at_a_terminal(args.tty && args.interactive)?;
    let start = ExecStart {
        container: args.id.clone(),
        command: args.command,
        env: super::run::environment(&args.env, |key| std::env::var(key).ok())?,
        dir: args.dir,
        user: args.user,
        attach_stdin: args.interactive,
        terminal: args.tty.then(terminal::size),
        detach: args.detach,
    };
    let (inputs, receiver) = mpsc::channel(INPUTS_IN_FLIGHT);
    inputs.try_send(RunInput { input: Some(Input::Exec(start)) }).expect("the channel is new and has room");
    let signals = Signals::catch()?;
    let call = async {
        let mut outputs =
            context.containers().await?.exec(ReceiverStream::new(receiver)).await.map_err(Fault::from)?.into_inner();
        match outputs.message().await? {
            Some(message) if matches!(message.output, Some(Output::Started(_))) => Ok(outputs),
            _ => Err(foreground::lost(&args.id, Status::unavailable("it ended the call"), What::Program)),
        }
    };
    let Some(outputs) = signals.unless_interrupted(call).await else { return Ok(signals.interrupted_code()) };
    let outputs = outputs?;
    if args.detach {
        return Ok(0);
    }
    let how = How {
        stdin: args.interactive,
        terminal: args.tty,
        detach_keys,
        signals: true,
        json: context.ui.json,
        what: What::Program,
    };
    foreground::attend(outputs, &args.id, inputs, signals, how).await
}
