//! `cc image`: pull, load, list, remove, prune, login. Refuses to unpack anything: the daemon does.

use cc_common::api::fault::Fault;
use cc_common::api::v1::image_service_client::ImageServiceClient;
use cc_common::api::v1::{
    ListImagesRequest, PruneImagesRequest, PullRequest, RemoveImagesRequest, pull_progress::Progress,
};
use clap::{Args, Subcommand};
use tonic::Code;

use super::Context;
use crate::credentials;
use crate::error::{Failure, chain, usage};
use crate::pull::PullDisplay;
use crate::render::Ids;
use crate::render::image::{Images, Pruned, Stored};
use crate::secret::{self, Origin};
use crate::source::{self, Source, upload};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cc image pull debian:12\n  cc image load oci:./image:v1 --name localhost/app:v1")]
pub struct ImageArgs {
    #[command(subcommand)]
    command: ImageCommand,
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// Pull an image from a registry (docker.io if none is named)
    #[command(after_help = "Examples:\n  cc image pull debian:12\n  cc image pull registry.example:5000/app@sha256:…")]
    Pull {
        #[arg(value_name = "REFERENCE")]
        reference: String,
        /// Speak http to the registry; loopback needs no flag
        #[arg(long)]
        plain_http: bool,
    },
    /// Load an image from a file or directory of this machine
    #[command(after_help = "Examples:\n  cc image load oci:./image:v1\n  cc image load docker-archive:app.tar.gz\n\n\
        Without --name, oci:DIR:TAG is kept as localhost/DIR:TAG, and a docker-archive under its own names.")]
    Load {
        /// oci:DIR[:TAG] or docker-archive:FILE[:REF]
        #[arg(value_name = "SOURCE")]
        source: String,
        /// The name under which it is kept
        #[arg(long, value_name = "REF")]
        name: Option<String>,
    },
    /// List images
    #[command(visible_alias = "ls", after_help = "Example:\n  cc image list")]
    List,
    /// Remove images
    #[command(visible_alias = "rm", after_help = "Example:\n  cc image remove debian:12")]
    Remove {
        /// Also if a stopped container uses it
        #[arg(short, long)]
        force: bool,
        /// References or digests
        #[arg(required = true, value_name = "REFERENCE")]
        references: Vec<String>,
    },
    /// Remove what no image uses
    #[command(after_help = "Examples:\n  cc image prune\n  cc image prune --all")]
    Prune {
        /// Also images with a name that no container uses
        #[arg(short, long)]
        all: bool,
    },
    /// Keep a password for a registry, in $XDG_CONFIG_HOME/cc/auth.json
    #[command(after_help = "Example:\n  cc image login registry.example:5000 -u ann --password-stdin < password\n\n\
        The password goes with pulls from this registry only. It is not tried out now.")]
    Login {
        #[arg(value_name = "REGISTRY")]
        registry: String,
        #[arg(short, long)]
        username: String,
        /// Read the password from standard input; there is no other way, so that no process list shows it
        #[arg(long, required = true)]
        password_stdin: bool,
    },
}

pub async fn run(context: &Context, args: ImageArgs) -> Result<i32, Failure> {
    match args.command {
        ImageCommand::Pull { reference, plain_http } => pull(context, reference, plain_http).await?,
        ImageCommand::Load { source, name } => {
            let image = upload::load(context.connection().await?, &source::parse(&source), name).await?;
            context.ui.show(&Stored(image.into()))?;
        }
        ImageCommand::List => {
            let images = client(context).await?.list(ListImagesRequest {}).await?.into_inner().images;
            context.ui.show(&Images(images.into_iter().map(Into::into).collect()))?;
        }
        ImageCommand::Remove { force, references } => {
            let request = RemoveImagesRequest { references, force };
            let removed = client(context).await?.remove(request).await?.into_inner().removed;
            context.ui.show(&Ids(removed))?;
        }
        ImageCommand::Prune { all } => {
            let done = client(context).await?.prune(PruneImagesRequest { all }).await?.into_inner();
            context.ui.show(&Pruned { removed: done.removed, freed_bytes: done.freed_bytes })?;
        }
        ImageCommand::Login { registry, username, password_stdin: _ } => login(context, &registry, &username)?,
    }
    Ok(0)
}

async fn client(context: &Context) -> Result<ImageServiceClient<crate::client::Connection>, Fault> {
    Ok(ImageServiceClient::new(context.connection().await?))
}

async fn pull(context: &Context, reference: String, plain_http: bool) -> Result<(), Failure> {
    if !matches!(source::parse(&reference), Source::Registry(_)) {
        let fault = usage("cannot pull the image", format!("{reference:?} is on this machine, not in a registry"));
        return Err(fault.next(format!("cc image load {reference}")).into());
    }
    let path = credentials::default_path().map_err(Fault::from)?;
    let auth = credentials::for_reference(&path, &reference).map_err(Fault::from)?;
    let mut stream = client(context).await?.pull(PullRequest { reference, auth, plain_http }).await?.into_inner();
    let mut display = PullDisplay::new(context.ui.progress());
    let mut done = None;
    while let Some(message) = stream.message().await? {
        match message.progress {
            Some(Progress::Layer(layer)) => display.update(&layer),
            Some(Progress::Done(image)) => done = Some(image),
            None => {}
        }
    }
    display.finish();
    let image = done.ok_or_else(|| Fault::new(Code::Internal, "cli.pull", "the pull ended", "no image came of it"))?;
    context.ui.show(&Stored(image.into()))?;
    Ok(())
}

fn login(context: &Context, registry: &str, username: &str) -> Result<(), Fault> {
    context.claim_stdin("--password-stdin")?;
    let password = secret::read(&Origin::Stdin)
        .map_err(|source| usage("cannot read the password", chain(&source)).next("give it on standard input"))?;
    let path = credentials::default_path()?;
    credentials::remember(&path, registry, username, &password)?;
    if !context.ui.quiet {
        eprintln!("kept in {}; it goes with pulls from {registry} only", path.display());
    }
    Ok(())
}
