//! `cc prune`: containers that have ended, and images that nobody uses, go. Refuses to end a container, and to ask nobody: without a
//! terminal it wants `--force`.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use cc_common::api::v1::image_service_client::ImageServiceClient;
use cc_common::api::v1::{ListContainersRequest, PruneImagesRequest, RemoveRequest};
use clap::Args;
use serde::Serialize;
use tonic::Code;

use super::Context;
use crate::error::{Failure, usage};
use crate::render::View;
use crate::size;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cc prune\n  cc prune --all --force")]
pub struct PruneArgs {
    /// Also images with a name, if no container was made from them
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

#[derive(Debug, Serialize)]
struct PrunedAll {
    containers: Vec<String>,
    images: Vec<String>,
    /// Of images; what containers had written is not counted.
    freed_bytes: u64,
}

impl View for PrunedAll {
    fn print_into(&self, out: &mut impl io::Write) -> io::Result<()> {
        self.containers.iter().try_for_each(|id| writeln!(out, "container {}", crate::render::clean(id)))?;
        self.images.iter().try_for_each(|name| writeln!(out, "image {}", crate::render::clean(name)))?;
        let (containers, images) = (self.containers.len(), self.images.len());
        writeln!(
            out,
            "{containers} containers and {images} images removed, {} of images freed",
            size::human(self.freed_bytes)
        )
    }

    fn ids(&self) -> Vec<&str> {
        self.containers.iter().chain(&self.images).map(String::as_str).collect()
    }
}

pub async fn run(context: &Context, args: PruneArgs) -> Result<i32, Failure> {
    if !args.force && !agreed(context, &question(args.all))? {
        return Ok(1);
    }
    let mut client = context.containers().await?;
    let listed = client.list(ListContainersRequest { all: true }).await?.into_inner().containers;
    let mut containers = Vec::new();
    for ended in listed.into_iter().filter(|container| container.state == "stopped") {
        let request = RemoveRequest { ids: vec![ended.id.clone()], force: false, unless_it_pauses: true };
        match client.remove(request).await {
            Ok(_) => containers.push(ended.id),
            // Somebody removes it meanwhile, or starts it, its policy above all.
            Err(status) if matches!(status.code(), Code::NotFound | Code::FailedPrecondition | Code::Aborted) => {}
            Err(status) => return Err(status.into()),
        }
    }
    let mut images = ImageServiceClient::new(context.connection().await?);
    let done = images.prune(PruneImagesRequest { all: args.all }).await?.into_inner();
    context.ui.show(&PrunedAll { containers, images: done.removed, freed_bytes: done.freed_bytes })?;
    Ok(0)
}

fn question(all: bool) -> String {
    let images = if all {
        "all images that no container was made from"
    } else {
        "images without a name that no container was made from"
    };
    format!("This removes all containers that have ended, with what they wrote and their logs, and {images}.")
}

/// Whether somebody at a terminal says yes to what is about to happen.
pub(super) fn agreed(context: &Context, what: &str) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        let fault = usage("cannot prune", "nobody can be asked: standard input is no terminal");
        return Err(fault.next("say that nobody is to be asked: --force").into());
    }
    context.claim_stdin("the question")?;
    let mut err = io::stderr().lock();
    write!(err, "{what} Go on? [y/N] ")?;
    err.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
