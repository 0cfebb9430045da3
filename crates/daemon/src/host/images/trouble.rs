//! What can go wrong with an image or kernel, and what of that is told to whom.

use super::registry::RegistryError;
use super::verify;
use crate::layout::Layout;
use engine::host::{HostError, HostErrorKind};
use std::io;

/// What stops the making of an image or kernel; [`Trouble::told`] turns it into the seam's error.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{what} {path}")]
    File { what: &'static str, path: std::path::PathBuf, source: io::Error },
    #[error("the archive cannot become a disk")]
    Image(#[source] ::images::ext4::ImageError),
    #[error("the archive cannot be read")]
    Layer(#[from] ::images::LayerError),
    #[error("the kernel cannot be used")]
    Kernel(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("{program} failed: {said}")]
    Program { program: &'static str, said: String },
    #[error("{sentence}")]
    Unfit { sentence: String, hint: Option<String> },
    #[error("{0}")]
    NotFound(String),
    #[error("the registry is no help")]
    Registry(#[source] RegistryError),
    #[error("the image's manifest cannot be used")]
    Manifest(#[from] ::images::manifest::ManifestError),
    #[error("the image's config cannot be used")]
    Config(#[from] ::images::config::ConfigError),
    #[error("its signature cannot be accepted")]
    Signature(#[from] verify::VerifyError),
    #[error("the layout cannot be used")]
    Layout(#[from] ::images::layout::LayoutError),
    #[error("the bundle cannot be used")]
    Bundle(#[from] ::images::bundle::BundleError),
    #[error("{0}")]
    Invalid(String),
    #[error("layer {number} is not the one that the image's config names, {wanted}")]
    DiffId { number: usize, wanted: model::Digest },
    #[error("nobody wants it any more")]
    Cancelled,
}

impl From<RegistryError> for Trouble {
    fn from(error: RegistryError) -> Trouble {
        match error {
            RegistryError::Cancelled => Trouble::Cancelled,
            other => Trouble::Registry(other),
        }
    }
}

impl From<::images::ext4::ImageError> for Trouble {
    fn from(error: ::images::ext4::ImageError) -> Trouble {
        match error {
            ::images::ext4::ImageError::Cancelled => Trouble::Cancelled,
            ::images::ext4::ImageError::Layer { source: ::images::LayerError::Cancelled, .. } => Trouble::Cancelled,
            other => Trouble::Image(other),
        }
    }
}

impl Trouble {
    pub fn told(self, attempt: &str, layout: &Layout) -> HostError {
        if self.is_full_disk() {
            let attempt = format!("{attempt}: there is no room left on the disk of {}", layout.state().display());
            return HostError::new(HostErrorKind::Unfit, attempt).with_hint("`banger image list` shows what could go");
        }
        let (kind, hint) = match &self {
            Trouble::Io(_) | Trouble::File { .. } => (HostErrorKind::Broken, None),
            Trouble::Image(_) | Trouble::Layer(_) | Trouble::Kernel(_) => (HostErrorKind::Invalid, None),
            Trouble::Signature(_) | Trouble::Layout(_) | Trouble::Bundle(_) => (HostErrorKind::Invalid, None),
            Trouble::Manifest(_) | Trouble::Config(_) | Trouble::Invalid(_) | Trouble::DiffId { .. } => {
                (HostErrorKind::Invalid, None)
            }
            Trouble::Registry(error) => (registry_kind(error), error.hint()),
            Trouble::Program { .. } => (HostErrorKind::Unfit, Some("`banger doctor` checks the tools".to_owned())),
            Trouble::Unfit { hint, .. } => (HostErrorKind::Unfit, hint.clone()),
            Trouble::NotFound(_) => (HostErrorKind::NotFound, None),
            Trouble::Cancelled => (HostErrorKind::Cancelled, None),
        };
        let error = HostError::new(kind, attempt).with_source(self);
        match hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }

    pub fn is_cancelled(&self) -> bool {
        matches!(self, Trouble::Cancelled | Trouble::Layer(::images::LayerError::Cancelled))
    }

    fn is_full_disk(&self) -> bool {
        if let Trouble::Program { said, .. } = self {
            return said.contains("No space left on device");
        }
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            let full = error
                .downcast_ref::<io::Error>()
                .is_some_and(|error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded));
            if full {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

fn registry_kind(error: &RegistryError) -> HostErrorKind {
    match error {
        RegistryError::Missing { .. } => HostErrorKind::NotFound,
        RegistryError::Redirect { .. } | RegistryError::Answer { .. } => HostErrorKind::Invalid,
        RegistryError::Stalled { .. } => HostErrorKind::TimedOut,
        RegistryError::Store(_) => HostErrorKind::Broken,
        RegistryError::Cancelled => HostErrorKind::Cancelled,
        RegistryError::Unreachable { .. }
        | RegistryError::Proxy { .. }
        | RegistryError::Tls { .. }
        | RegistryError::Broken { .. }
        | RegistryError::Short { .. }
        | RegistryError::Status { .. }
        | RegistryError::Denied { .. }
        | RegistryError::Credentials { .. } => HostErrorKind::Unfit,
    }
}
