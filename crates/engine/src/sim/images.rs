//! A catalog of two images and one kernel that are "built" in no time, and nothing else in the world.

use super::{IMAGES, KERNELS, World, refuse};
use crate::host::images::{ImageFacts, Images, KernelFacts, Systemd};
use crate::host::{HostError, HostErrorKind, Report, Result, Unit, Watch};
use model::service::ImageCommand;
use model::{Backend, ByteSize, Change, Digest, ImageName, KernelName};
use std::sync::Arc;

const IMAGE_SIZE: ByteSize = ByteSize::from_gib(2);
const IMAGE_ALLOCATED: ByteSize = ByteSize::from_mib(283);
const KERNEL_SIZE: ByteSize = ByteSize::from_mib(53);

pub(super) struct SimImages(pub Arc<World>);

impl Images for SimImages {
    fn ensure_image(&self, name: &ImageName, watch: &dyn Watch) -> Result<Change> {
        self.0.call("cannot make an image", |state| {
            if state.images.contains(name) {
                return Ok(Change::Unchanged);
            }
            make(name.as_str(), IMAGES, "image", watch)?;
            state.images.insert(name.clone());
            Ok(Change::Changed)
        })
    }

    fn ensure_kernel(&self, name: &KernelName, watch: &dyn Watch) -> Result<Change> {
        self.0.call("cannot make a kernel", |state| {
            if state.kernels.contains(name) {
                return Ok(Change::Unchanged);
            }
            make(name.as_str(), KERNELS, "kernel", watch)?;
            state.kernels.insert(name.clone());
            Ok(Change::Changed)
        })
    }

    fn remove_image(&self, name: &ImageName) -> Result<Change> {
        self.0.call("cannot remove an image", |state| {
            let user = state.vmms.values().find(|vmm| vmm.ended.is_none() && vmm.machine.image == *name);
            if let Some(vmm) = user {
                let attempt = format!("cannot remove image {name}: {} runs on it", vmm.machine.id);
                return refuse(HostErrorKind::Busy, attempt);
            }
            Ok(if state.images.remove(name) { Change::Changed } else { Change::Unchanged })
        })
    }

    fn remove_kernel(&self, name: &KernelName) -> Result<Change> {
        self.0.call("cannot remove a kernel", |state| {
            Ok(if state.kernels.remove(name) { Change::Changed } else { Change::Unchanged })
        })
    }

    fn images(&self) -> Result<Vec<ImageFacts>> {
        self.0.call("cannot list images", |state| {
            let facts = |name: &ImageName| ImageFacts {
                name: name.clone(),
                digest: digest(name.as_str()),
                systemd: systemd_of(name.as_str()),
                kernel: None,
                size: IMAGE_SIZE,
                allocated: IMAGE_ALLOCATED,
                created_at: 0,
                source: "simulation".into(),
            };
            Ok(state.images.iter().map(facts).collect())
        })
    }

    /// Images of this world bring no command.
    fn image_command(&self, _name: &ImageName) -> Result<Option<ImageCommand>> {
        self.0.call("cannot read an image's command", |_| Ok(None))
    }

    fn kernels(&self) -> Result<Vec<KernelFacts>> {
        self.0.call("cannot list kernels", |state| {
            let facts = |name: &KernelName| KernelFacts {
                name: name.clone(),
                version: "6.1.0-sim".into(),
                digest: digest(name.as_str()),
                size: KERNEL_SIZE,
                created_at: 0,
                source: "simulation".into(),
                backends: vec![Backend::Sim],
                boot_args: Vec::new(),
                modules: 0,
            };
            Ok(state.kernels.iter().map(facts).collect())
        })
    }
}

/// As the systems have it that are called so.
fn systemd_of(name: &str) -> Systemd {
    match name {
        debian if debian.starts_with("debian") => Systemd::Present,
        alpine if alpine.starts_with("alpine") => Systemd::Unavailable { system: Some("Alpine Linux".into()) },
        _ => Systemd::Installable,
    }
}

fn make(name: &str, catalog: &[&str], what: &str, watch: &dyn Watch) -> Result<()> {
    if !catalog.contains(&name) {
        return Err(HostError::new(HostErrorKind::NotFound, format!("there is no {what} `{name}`"))
            .with_hint(format!("the catalog holds {}", catalog.join(", "))));
    }
    if watch.cancelled() {
        return refuse(HostErrorKind::Cancelled, format!("cannot make {what} {name}: it was cancelled"));
    }
    watch.report(Report::Stage { text: format!("building {what} {name}") });
    watch.report(Report::Progress { done: 1, total: Some(1), unit: Unit::Items });
    Ok(())
}

/// Not a digest of anything: a stable stand-in made of the name.
fn digest(name: &str) -> Digest {
    let mut bytes = [0; 32];
    for (place, byte) in name.bytes().enumerate() {
        bytes[place % 32] ^= byte;
    }
    Digest::from_sha256(bytes)
}
