//! `cc attach`: at the streams of a container that runs, as `cc run` is from its start. Refuses to show what was written before: that is
//! `cc logs`.

use cc_common::api::fault::Fault;
use cc_common::api::v1::run_output::Output;
use cc_common::api::v1::{AttachStart, Attached, RunInput, run_input::Input};
use clap::Args;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Context;
use super::foreground::{self, How, INPUTS_IN_FLIGHT, Signals, What};
use crate::error::Failure;
use crate::terminal;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cc attach web\n  cc attach --no-stdin --no-signals web\n  \
    cc attach --detach-keys ctrl-],q shell\n\nctrl-p ctrl-q leaves a container with a terminal running; without one, ctrl-c is passed on.")]
pub struct AttachArgs {
    /// Only listen
    #[arg(long)]
    no_stdin: bool,
    /// Keep our signals to ourselves: ctrl-c then ends this command alone
    #[arg(long)]
    no_signals: bool,
    /// Keys that leave it running, where it has a terminal
    #[arg(long, value_name = "KEYS", default_value = terminal::DETACH_KEYS)]
    detach_keys: String,
    /// A container, by name or id
    #[arg(value_name = "ID")]
    id: String,
}

pub async fn run(context: &Context, args: AttachArgs) -> Result<i32, Failure> {
    if !args.no_stdin {
        context.claim_stdin("cc attach")?;
    }
    let detach_keys = foreground::keys(&args.detach_keys)?;
    let size = terminal::size();
    let start = AttachStart {
        container: args.id.clone(),
        stdin: !args.no_stdin,
        // Where nobody knows a size, the terminal keeps the one that it has.
        terminal: (size.rows > 0 && size.columns > 0).then_some(size),
    };
    let (inputs, receiver) = mpsc::channel(INPUTS_IN_FLIGHT);
    inputs.try_send(RunInput { input: Some(Input::Attach(start)) }).expect("the channel is new and has room");
    let signals = Signals::catch()?;
    let call = async {
        let mut outputs =
            context.containers().await?.attach(ReceiverStream::new(receiver)).await.map_err(Fault::from)?.into_inner();
        match outputs.message().await?.and_then(|message| message.output) {
            Some(Output::Attached(attached)) => Ok((outputs, attached)),
            _ => Err(foreground::lost(&args.id, Status::unavailable("it ended the call"), What::Container)),
        }
    };
    let Some(attached) = signals.unless_interrupted(call).await else { return Ok(signals.interrupted_code()) };
    let (outputs, Attached { terminal, stdin }) = attached?;
    let how =
        How { stdin, terminal, detach_keys, signals: !args.no_signals, json: context.ui.json, what: What::Container };
    foreground::attend(outputs, &args.id, inputs, signals, how).await
}
