//! The images seam: the library of images and kernels below the state folder.
//!
//! ```text
//!  images.rs    the seam; what is here, removal, one piece of work for many who ask
//!  images/catalog   what can be had by name         images/recipe     how that is made
//!  images/fetch     files of the catalog            images/packages   apt and mmdebstrap
//!  images/pull      blobs → image                   images/registry   manifests and blobs over HTTP
//!  images/blobs     the cache of blobs              images/names      references and short names
//!  images/image     tar → image                     images/kernel     package or files → kernel, initramfs
//!  images/build     source → kernel                 images/command    what an image runs
//!  images/archive   layouts and archives              images/bundle     a whole boot set in one file
//!  images/register  files of somebody else            images/upkeep     other names, the cache's budget, what can go
//!  images/verify    signatures
//!  images/seed      the work-seed and its fingerprint
//!  images/staging   half-made things, out of sight  images/program    a child that can be stopped
//!  images/manifest  what stands beside the files
//! ```
//! An entry is a folder that was renamed into place whole; whatever is half-made has a name that no image can have. The
//! daemon holds the lock of the state folder, so what lies half-made when it starts is nobody's.

mod archive;
pub mod blobs;
mod build;
mod bundle;
mod catalog;
mod command;
mod fetch;
mod image;
mod kernel;
mod manifest;
mod mkfs;
mod names;
mod packages;
mod program;
mod pull;
mod recipe;
mod register;
pub mod registry;
mod seed;
mod shared;
mod sources;
mod staging;
#[cfg(test)]
mod tests;
mod trouble;
mod upkeep;
mod verify;

pub use build::{BuildOptions, SUITE, Source, Trust, all_jobs};
pub use kernel::KernelFiles;
pub use register::{OwnKernel, Registration};
pub use trouble::Trouble;
pub use upkeep::Sweep;

use super::vmm::boot;
use crate::layout::Layout;
use ::images::config::ImageConfig;
use blobs::BlobCache;
use engine::host::images::{ImageFacts, Images, KernelFacts};
use engine::host::{HostError, HostErrorKind, Report, Result, Watch};
use kernel::Agent;
use manifest::{ImageManifest, KernelManifest};
use model::image_ref::{ImageRef, OciReference};
use model::service::ImageCommand;
use model::{ByteSize, Change, ImageName, KernelName};
use pull::FromRegistry;
pub use pull::architecture;
use registry::Access;
use shared::Shared;
use staging::Staging;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// More entries than this are not listed: somebody else's folder.
const MAX_ENTRIES: usize = 10_000;

pub struct Library {
    layout: Layout,
    /// Work under way, by `image/<name>` or `kernel/<name>`.
    under_way: Shared,
    /// The agent's digest, as of its file's last change; held while an initramfs is made.
    agent: Mutex<Option<Agent>>,
    blobs: BlobCache,
    /// How registries are talked to.
    access: Access,
    /// Images that somebody asked for by reference, by the name that each will have.
    wanted: Mutex<BTreeMap<ImageName, OciReference>>,
    /// The owner's additions to the catalog.
    catalog_folder: Option<PathBuf>,
    /// What the cache may take.
    budget: ByteSize,
}

/// How a person wants an image fetched.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    pub name: Option<ImageName>,
    pub plain_http: bool,
    pub ca_file: Option<PathBuf>,
    pub auth_file: Option<PathBuf>,
    /// PEM of the key by which it must be signed.
    pub verify_key: Option<String>,
}

/// How an image that is here is to be held against its registry.
struct Refresh<'a> {
    access: &'a Access,
    options: &'a PullOptions,
    in_use: &'a dyn Fn(&ImageName) -> Vec<String>,
}

/// What is known of an image beyond what the engine wants to know.
#[derive(Debug, Clone)]
pub struct ImageDetails {
    pub managed: bool,
    pub references: Vec<String>,
    pub system: Option<String>,
    pub config: ImageConfig,
    /// The files of its boot set by part.
    pub files: Vec<(&'static str, PathBuf)>,
}

impl Library {
    /// Call with the state folder's lock held: sweeps what an earlier daemon left half-made.
    pub fn open(layout: Layout) -> io::Result<Library> {
        for folder in [layout.images(), layout.kernels()] {
            staging::sweep(&folder)?;
        }
        Ok(Library {
            blobs: BlobCache::open(layout.blobs()),
            layout,
            under_way: Shared::default(),
            agent: Mutex::default(),
            access: Access::default(),
            wanted: Mutex::default(),
            catalog_folder: None,
            budget: upkeep::DEFAULT_BUDGET,
        })
    }

    pub fn with_budget(self, budget: Option<ByteSize>) -> Library {
        Library { budget: budget.unwrap_or(upkeep::DEFAULT_BUDGET), ..self }
    }

    pub fn with_access(self, access: Access) -> Library {
        Library { access, ..self }
    }

    /// Makes an image of a tar archive: plain, gzip, zstd or xz.
    pub fn import_image(&self, name: &ImageName, archive: &Path, watch: &dyn Watch) -> Result<()> {
        let attempt = format!("cannot import image {name}");
        refuse_existing(&self.layout.image(name), &attempt)?;
        watch.report(Report::Stage { text: format!("importing image {name}") });
        let work = || {
            let staging = Staging::begin(&self.layout.images())?;
            let source = format!("imported from {}", archive.display());
            image::from_archive(archive, &staging, &source, watch)?;
            staging.commit(&self.layout.image(name))
        };
        work().map_err(|error| error.told(&attempt, &self.layout))
    }

    /// Registers a kernel: an ELF `vmlinux` or a bzImage, its modules, and the words it needs.
    pub fn import_kernel(&self, name: &KernelName, files: &KernelFiles, watch: &dyn Watch) -> Result<()> {
        let attempt = format!("cannot import kernel {name}");
        refuse_existing(&self.layout.kernel(name), &attempt)?;
        watch.report(Report::Stage { text: format!("importing kernel {name}") });
        let work = || {
            let staging = Staging::begin(&self.layout.kernels())?;
            kernel::from_files(files, &staging)?;
            staging.commit(&self.layout.kernel(name))
        };
        work().map_err(|error| error.told(&attempt, &self.layout))
    }

    /// Makes an image present and tells its name: one of the catalog, or whatever a registry has.
    /// `in_use` names the sandboxes that an image must not change under.
    pub fn pull_image(
        &self,
        wanted: &ImageRef,
        options: &PullOptions,
        in_use: &dyn Fn(&ImageName) -> Vec<String>,
        watch: &dyn Watch,
    ) -> Result<ImageName> {
        let reference = match wanted {
            ImageRef::Name(name) => {
                let _change = self.ensure_image(name, watch)?;
                return Ok(name.clone());
            }
            ImageRef::Oci(reference) => reference,
        };
        let name = match &options.name {
            Some(name) => name.clone(),
            None => self.name_of(reference)?,
        };
        let here = || self.layout.image_manifest(&name).is_file();
        let access = self.access.with(options);
        let _change = self.under_way.once(&format!("image/{name}"), watch, || match here() {
            true => self.refresh(&name, reference, &Refresh { access: &access, options, in_use }, watch),
            false => {
                self.pull(&name, reference, &access, options.verify_key.as_deref(), watch).map(|()| Change::Changed)
            }
        })?;
        Ok(name)
    }

    /// A tag may have moved on since the image came here; one that is in use stays as it is.
    fn refresh(
        &self,
        name: &ImageName,
        reference: &OciReference,
        how: &Refresh<'_>,
        watch: &dyn Watch,
    ) -> Result<Change> {
        let key = how.options.verify_key.as_deref();
        if reference.digest.is_some() && key.is_none() {
            return Ok(Change::Unchanged);
        }
        watch.report(Report::Stage { text: format!("asking for {reference}") });
        let now = key
            .map(verify::key)
            .transpose()
            .map_err(Trouble::from)
            .and_then(|key| FromRegistry::new(reference, how.access, key).resolved(reference, watch));
        let note = |text: String| {
            watch.report(Report::Note { text });
            Ok(Change::Unchanged)
        };
        let now = match now {
            Ok(now) => now,
            Err(Trouble::Registry(error)) if key.is_none() && error.is_transient_or_unreachable() => {
                return note(format!("{error}: the image that is here stays"));
            }
            Err(error) => return Err(error.told(&format!("cannot pull image {reference}"), &self.layout)),
        };
        let manifest = ImageManifest::read(&self.layout.image_manifest(name));
        let before = manifest.and_then(|manifest| manifest.origin).and_then(|origin| origin.resolved);
        let users = (how.in_use)(name);
        match before {
            Some(before) if before == now => Ok(Change::Unchanged),
            _ if !users.is_empty() => {
                let users = users.join(", ");
                note(format!("{reference} has changed, but {users} uses what is here; `--name` pulls it beside that"))
            }
            _ => self.pull(name, reference, how.access, key, watch).map(|()| Change::Changed),
        }
    }

    /// Every image with all that is known of it; `kernel` boots those that name none.
    pub fn described(&self, kernel: &KernelName) -> Result<Vec<(ImageFacts, ImageDetails)>> {
        // Most images boot with the same kernel.
        let mut kernels = BTreeMap::new();
        let describe = |(name, manifest): (ImageName, ImageManifest)| {
            let kernel = manifest.kernel.clone().unwrap_or_else(|| kernel.clone());
            let kernel_files = kernels.entry(kernel).or_insert_with_key(|kernel| self.kernel_parts(kernel));
            let mut files = present(vec![
                ("rootfs", self.layout.image_rootfs(&name)),
                ("work_seed", self.layout.image_work_seed(&name)),
            ]);
            files.extend(kernel_files.iter().cloned());
            let details = ImageDetails {
                managed: manifest.managed,
                references: manifest.references.clone(),
                system: manifest.system.clone(),
                config: manifest.config.clone(),
                files,
            };
            (self.image_facts(name, manifest), details)
        };
        Ok(self.manifests()?.into_iter().map(describe).collect())
    }

    /// What of a boot set is the kernel's.
    fn kernel_parts(&self, kernel: &KernelName) -> Vec<(&'static str, PathBuf)> {
        present(vec![
            ("kernel", self.layout.kernel_vmlinux(kernel)),
            ("initrd", self.layout.kernel(kernel).join(kernel::INITRD)),
            ("modules", self.layout.kernel_modules(kernel)),
        ])
    }

    /// Builds the generic guest kernel from source.
    pub fn build_kernel(&self, name: &KernelName, options: &BuildOptions, watch: &dyn Watch) -> Result<()> {
        let attempt = format!("cannot build kernel {name}");
        refuse_existing(&self.layout.kernel(name), &attempt)?;
        let work = || {
            let staging = Staging::begin(&self.layout.kernels())?;
            build::build(options, &staging, watch)?;
            staging.commit(&self.layout.kernel(name))
        };
        let build = || work().map(|()| Change::Changed).map_err(|error| error.told(&attempt, &self.layout));
        self.under_way.once(&format!("kernel/{name}"), watch, build).map(drop)
    }

    /// The files of a kernel that is here, by what they are.
    pub fn kernel_files_of(&self, name: &KernelName) -> Vec<(&'static str, std::path::PathBuf)> {
        let kernel = self.layout.kernel(name);
        let files =
            [("vmlinux", "vmlinux"), ("modules", "modules"), ("config", "config"), ("manifest", "manifest.json")];
        let files = files.map(|(what, file)| (what, kernel.join(file)));
        files.into_iter().filter(|(_, path)| path.exists()).collect()
    }

    /// Makes an image of whatever lies in a file or folder.
    pub fn load(&self, path: &Path, tag: Option<&str>, options: &PullOptions, watch: &dyn Watch) -> Result<ImageName> {
        match bundle::hash_in_name(path) {
            Some(hash) if path.is_file() => {
                let attempt = format!("cannot open {}", path.display());
                let file =
                    std::fs::File::open(path).map_err(|error| Trouble::from(error).told(&attempt, &self.layout))?;
                let source = path.display().to_string();
                self.unbundle(file, Some(&hash), options.name.as_ref(), &source, watch)
            }
            _ => self.load_image(path, tag, options, watch),
        }
    }

    fn pull(
        &self,
        name: &ImageName,
        reference: &OciReference,
        access: &Access,
        key: Option<&str>,
        watch: &dyn Watch,
    ) -> Result<()> {
        watch.report(Report::Stage { text: format!("pulling {reference}") });
        let work = || {
            let key = key.map(verify::key).transpose()?;
            let staging = Staging::begin(&self.layout.images())?;
            let registry = FromRegistry::new(reference, access, key);
            let described = registry.describe(reference, &self.blobs, watch)?;
            pull::make(&described, &registry, &self.blobs, &staging, watch)?;
            let place = self.layout.image(name);
            if place.exists() { staging.replace(&place) } else { staging.commit(&place) }
        };
        work().map_err(|error| error.told(&format!("cannot pull image {reference}"), &self.layout))?;
        self.keep_within_budget();
        Ok(())
    }

    /// Makes a kernel present, without an initramfs yet.
    fn obtain_kernel(&self, name: &KernelName, watch: &dyn Watch) -> Result<Change> {
        let here = || self.layout.kernel_manifest(name).is_file();
        if here() {
            return Ok(Change::Unchanged);
        }
        self.under_way.once(&format!("kernel/{name}"), watch, || match here() {
            true => Ok(Change::Unchanged),
            false => {
                let entry = self.kernel_entry(name).ok_or_else(|| unknown("kernel", name.as_str()))?;
                self.make_kernel(name, &entry, watch).map(|()| Change::Changed)
            }
        })
    }

    /// The agent that guests get, or why there is none.
    pub fn agent(&self) -> std::result::Result<std::path::PathBuf, Trouble> {
        kernel::find_agent()
    }
}

fn refuse_existing(path: &Path, attempt: &str) -> Result<()> {
    match path.exists() {
        true => Err(HostError::new(HostErrorKind::Busy, format!("{attempt}: there is one of this name"))
            .with_hint("remove it first, or choose another name")),
        false => Ok(()),
    }
}

fn unknown(what: &str, name: &str) -> HostError {
    HostError::new(HostErrorKind::NotFound, format!("there is no {what} `{name}`, neither here nor in the catalog"))
        .with_hint(format!("`banger {what} list` shows what there is"))
}

/// Of a bare name that was tried with Docker's registry: most probably a slip of the fingers.
fn perhaps(name: &ImageName, error: HostError) -> HostError {
    let kinds = [HostErrorKind::NotFound, HostErrorKind::Unfit, HostErrorKind::TimedOut];
    match kinds.contains(&error.kind) {
        true => HostError { source: Some(Box::new(error)), ..unknown("image", name.as_str()) },
        false => error,
    }
}

impl Images for Library {
    fn ensure_image(&self, name: &ImageName, watch: &dyn Watch) -> Result<Change> {
        let here = || self.layout.image_manifest(name).is_file();
        if here() {
            return self.mend_work_seed(name, watch);
        }
        let make = || match (self.image_entry(name), self.reference_of(name)) {
            (Some(entry), _) => self.make_image(name, &entry, watch),
            (None, Some(reference)) => self.pull(name, &reference, &self.access, None, watch),
            (None, None) => match self.implied_reference(name) {
                Some(reference) => {
                    self.pull(name, &reference, &self.access, None, watch).map_err(|error| perhaps(name, error))
                }
                None => Err(unknown("image", name.as_str())),
            },
        };
        self.under_way.once(&format!("image/{name}"), watch, || match here() {
            true => Ok(Change::Unchanged),
            false => make().map(|()| Change::Changed),
        })
    }

    fn ensure_kernel(&self, name: &KernelName, watch: &dyn Watch) -> Result<Change> {
        let change = self.obtain_kernel(name, watch)?;
        self.initramfs(name)?;
        Ok(change)
    }

    fn remove_image(&self, name: &ImageName) -> Result<Change> {
        let own = ImageManifest::read(&self.layout.image_manifest(name)).filter(|manifest| manifest.owns_kernel);
        let change = staging::remove(&self.layout.image(name))
            .map_err(|error| Trouble::from(error).told(&format!("cannot remove image {name}"), &self.layout))?;
        match own.and_then(|manifest| manifest.kernel) {
            // Another image may have come to use it since.
            Some(kernel) if !self.manifests()?.iter().any(|(_, other)| other.kernel.as_ref() == Some(&kernel)) => {
                Ok(change.and(self.remove_kernel(&kernel)?))
            }
            _ => Ok(change),
        }
    }

    fn remove_kernel(&self, name: &KernelName) -> Result<Change> {
        staging::remove(&self.layout.kernel(name))
            .map_err(|error| Trouble::from(error).told(&format!("cannot remove kernel {name}"), &self.layout))
    }

    fn images(&self) -> Result<Vec<ImageFacts>> {
        Ok(self.manifests()?.into_iter().map(|(name, manifest)| self.image_facts(name, manifest)).collect())
    }

    fn image_command(&self, name: &ImageName) -> Result<Option<ImageCommand>> {
        Ok(ImageManifest::read(&self.layout.image_manifest(name))
            .and_then(|manifest| command::command_of(&manifest.config)))
    }

    fn kernels(&self) -> Result<Vec<KernelFacts>> {
        let names = entries::<KernelName>(&self.layout.kernels()).map_err(|error| self.unreadable("kernels", error))?;
        let facts = |name: KernelName| {
            let manifest = KernelManifest::read(&self.layout.kernel_manifest(&name))?;
            let (size, _) = sizes(&[self.layout.kernel_vmlinux(&name)]);
            Some(KernelFacts {
                version: manifest.version,
                backends: manifest.backends,
                boot_args: manifest.boot_args,
                modules: manifest.modules.len(),
                digest: manifest.digest,
                size,
                created_at: manifest.created_at_ns,
                source: manifest.source,
                name,
            })
        };
        Ok(names.into_iter().filter_map(facts).collect())
    }
}

impl Library {
    /// Of every image that is here.
    fn manifests(&self) -> Result<Vec<(ImageName, ImageManifest)>> {
        let names = entries::<ImageName>(&self.layout.images()).map_err(|error| self.unreadable("images", error))?;
        let read =
            |name: ImageName| ImageManifest::read(&self.layout.image_manifest(&name)).map(|manifest| (name, manifest));
        Ok(names.into_iter().filter_map(read).collect())
    }

    fn image_facts(&self, name: ImageName, manifest: ImageManifest) -> ImageFacts {
        let (size, allocated) = sizes(&[self.layout.image_rootfs(&name), self.layout.image_work_seed(&name)]);
        ImageFacts {
            systemd: manifest.systemd(),
            digest: manifest.digest,
            kernel: manifest.kernel,
            size,
            allocated,
            created_at: manifest.created_at_ns,
            source: manifest.source,
            name,
        }
    }

    fn unreadable(&self, what: &str, error: io::Error) -> HostError {
        HostError::new(HostErrorKind::Broken, format!("cannot list the {what}")).with_source(error)
    }
}

impl boot::Kernels for Library {
    fn kernel_files(&self, name: &KernelName) -> Result<boot::KernelFiles> {
        let initramfs = self.initramfs(name)?;
        let manifest = KernelManifest::read(&self.layout.kernel_manifest(name));
        Ok(boot::KernelFiles {
            kernel: self.layout.kernel_vmlinux(name),
            initramfs: Some(initramfs),
            boot_args: manifest.map(|manifest| manifest.boot_args).unwrap_or_default(),
        })
    }
}

/// Names of whole entries; what is half-made has a name that does not parse.
fn entries<T: std::str::FromStr + Ord>(folder: &Path) -> io::Result<Vec<T>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)?.take(MAX_ENTRIES) {
        names.extend(entry?.file_name().to_str().and_then(|name| name.parse::<T>().ok()));
    }
    names.sort();
    Ok(names)
}

fn present(mut files: Vec<(&'static str, PathBuf)>) -> Vec<(&'static str, PathBuf)> {
    files.retain(|(_, path)| path.exists());
    files
}

/// As the files say they are, and what deleting them would free. A list asks for hundreds: each is looked at once, unless it
/// is a link to its owner's.
fn sizes(files: &[PathBuf]) -> (ByteSize, ByteSize) {
    let (mut size, mut freed) = (0, 0);
    for path in files {
        let Ok(own) = std::fs::symlink_metadata(path) else { continue };
        size += match own.is_symlink() {
            true => std::fs::metadata(path).map_or(0, |meant| meant.len()),
            false => own.len(),
        };
        freed += upkeep::freed_of(&own);
    }
    (ByteSize::from_bytes(size), ByteSize::from_bytes(freed))
}
