//! What can go wrong with images, and the words a person sees for it. Refuses to carry credentials.

use std::path::{Path, PathBuf};

use cc_common::api::fault::Fault;
use oci_client::errors::OciDistributionError;
use tonic::Code;

use crate::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("{reference:?} is not an image reference: {reason}")]
    Reference { reference: String, reason: String },
    #[error("cannot pull from {registry} for a remote caller")]
    PrivateRegistry { registry: String },
    #[error("no image {reference}")]
    NotFound { reference: String },
    #[error("image {reference} is used by a container")]
    InUse { reference: String },
    #[error("cannot {operation} {reference}")]
    Registry { operation: &'static str, reference: String, source: Box<OciDistributionError> },
    #[error("the download of {digest} broke off {tries} times")]
    Download { digest: String, tries: u32, source: std::io::Error },
    #[error("{object} is not what its digest says: expected {expected}, got {actual}")]
    Digest { object: String, expected: String, actual: String },
    #[error("image {reference} is malformed: {reason}")]
    Malformed { reference: String, reason: String },
    #[error("image {reference} has nothing for {wanted}; it has {found}")]
    Platform { reference: String, wanted: String, found: String },
    #[error("{object} exceeds the limit of {limit} {unit}")]
    Limit { object: String, limit: u64, unit: &'static str },
    #[error("layer {layer} is refused: {reason}")]
    LayerRefused { layer: String, reason: String },
    #[error("layer {layer} cannot be unpacked: {reason}")]
    Unpack { layer: String, reason: String },
    #[error("the archive of {reference} cannot be read: {reason}")]
    Archive { reference: String, reason: String },
    #[error("cannot {operation} {path}")]
    Disk { operation: &'static str, path: PathBuf, source: std::io::Error },
    #[error("cannot read or write the records of images")]
    Store { source: StoreError },
    #[error("the records of images changed too often at once")]
    Contended,
}

impl ImageError {
    /// For `map_err` on a file operation.
    pub(super) fn disk(operation: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> ImageError {
        let path = path.as_ref().to_owned();
        move |source| ImageError::Disk { operation, path, source }
    }

    fn unauthorized(&self) -> bool {
        matches!(self, ImageError::Registry { source, .. } if matches!(**source,
            OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_)))
    }

    /// The registry says that it has no such thing.
    pub(super) fn absent(source: &OciDistributionError) -> bool {
        use oci_client::errors::OciErrorCode::{BlobUnknown, ManifestUnknown, NameUnknown, NotFound};
        match source {
            OciDistributionError::ImageManifestNotFoundError(_) => true,
            OciDistributionError::ServerError { code, .. } => *code == 404,
            OciDistributionError::RegistryError { envelope, .. } => {
                envelope.errors.iter().any(|e| matches!(e.code, ManifestUnknown | NameUnknown | BlobUnknown | NotFound))
            }
            _ => false,
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = source.source();
    }
    text
}

impl From<ImageError> for Fault {
    fn from(error: ImageError) -> Fault {
        let why = std::error::Error::source(&error).map_or_else(|| error.to_string(), chain);
        let unauthorized = error.unauthorized();
        match error {
            ImageError::Reference { reference, reason } => Fault::new(
                Code::InvalidArgument,
                "image.bad_reference",
                format!("cannot use image {reference:?}"),
                reason,
            )
            .next("name it like nginx, nginx:1.27 or registry.example/team/app@sha256:…"),
            ImageError::PrivateRegistry { registry } => Fault::new(
                Code::PermissionDenied,
                "image.private_registry",
                format!("cannot pull from {registry}"),
                "a remote caller may not make this host speak plain HTTP, nor to itself or its own link",
            )
            .next("use a registry with TLS, pull as root on the host, or use a key with the role admin"),
            ImageError::NotFound { reference } => {
                let next = format!("fetch it: cc image pull {reference}");
                Fault::new(
                    Code::NotFound,
                    "image.not_found",
                    format!("cannot find image {reference}"),
                    "this project has none of that name",
                )
                .next(next)
            }
            ImageError::InUse { reference } => Fault::new(
                Code::FailedPrecondition,
                "image.in_use",
                format!("cannot remove image {reference}"),
                "a container uses it",
            )
            .next("remove the container first, or use --force to drop only the name"),
            ImageError::Registry { operation, reference, source } => {
                let what = format!("cannot {operation} {reference}");
                if unauthorized {
                    Fault::new(Code::PermissionDenied, "image.unauthorized", what, why)
                        .next("check the name, or log in: cc image login")
                } else if ImageError::absent(&source) {
                    Fault::new(Code::NotFound, "image.not_in_registry", what, why).next("check the name and the tag")
                } else {
                    Fault::new(Code::Unavailable, "image.registry", what, why)
                        .next("check that the registry can be reached from the host; then pull again, what was fetched is kept")
                }
            }
            ImageError::Download { digest, .. } => {
                Fault::new(Code::Unavailable, "image.download", format!("cannot download {digest}"), why)
                    .next("pull again: what was fetched is kept")
            }
            ImageError::Digest { object, .. } => {
                Fault::new(Code::DataLoss, "image.digest_mismatch", format!("{object} is refused"), why)
                    .next("pull again; if it stays, the registry or something on the way to it alters data")
            }
            ImageError::Malformed { reference, .. } => {
                Fault::new(Code::InvalidArgument, "image.malformed", format!("cannot use image {reference}"), why)
                    .next("build the image again with a current tool")
            }
            ImageError::Platform { reference, .. } => {
                Fault::new(Code::FailedPrecondition, "image.platform", format!("cannot use image {reference}"), why)
                    .next("choose an image that is built for this host")
            }
            ImageError::Limit { object, .. } => {
                Fault::new(Code::ResourceExhausted, "image.limit", format!("{object} is refused"), why)
            }
            ImageError::LayerRefused { layer, reason } => {
                Fault::new(Code::InvalidArgument, "image.layer_refused", format!("layer {layer} is refused"), reason)
                    .next("the image is broken or hostile: build it again, or do not use it")
            }
            ImageError::Unpack { layer, reason } => {
                Fault::new(Code::Internal, "image.unpack", format!("cannot unpack layer {layer}"), reason)
            }
            ImageError::Archive { reference, reason } => {
                Fault::new(Code::InvalidArgument, "image.archive", format!("cannot load {reference}"), reason)
                    .next("give an OCI layout, or what docker save wrote")
            }
            ImageError::Disk { operation, path, source } => {
                let full = source.kind() == std::io::ErrorKind::StorageFull;
                let kind = if full { Code::ResourceExhausted } else { Code::Internal };
                let fault = Fault::new(kind, "image.disk", format!("cannot {operation} {}", path.display()), why);
                if full { fault.next("free space: cc image prune") } else { fault }
            }
            ImageError::Store { .. } => {
                Fault::new(Code::Internal, "image.store", "cannot read or write the records of images", why)
            }
            ImageError::Contended => {
                Fault::new(Code::Aborted, "image.contended", "cannot record the image", why).next("try again")
            }
        }
    }
}
